// The worker that a team writes in an afternoon, for `make bench` to compare crm-relay with.
//
// It reads the record of each notification by one GET with HubSpot's SDK, which paces and repeats calls, publishes what
// it found with a confirm, and acknowledges then. CONCURRENCY notifications are under way at once.

import { setTimeout as sleep } from 'node:timers/promises';
import amqp from 'amqplib';
import hubspot from '@hubspot/api-client';

const { AMQP_URL, ACCESS_TOKENS, HUBSPOT_URL, QUEUE_PREFIX, CONCURRENCY = '50', CALLS_PER_10S } = process.env;
const INTAKE = `${QUEUE_PREFIX}.intake`;
const OUT = `${QUEUE_PREFIX}.out`;
const RETRIES_MAX = 6;
const REQUEUE_DELAY_MS = 1_000;

// The SDK's own limiter, told of the account's real limit; without a limit it would only cost time.
const limiterOptions = CALLS_PER_10S && { minTime: 10_000 / Number(CALLS_PER_10S) };
const tokens = JSON.parse(ACCESS_TOKENS);
const clients = new Map();

/** The client of a portal, with a limiter of its own. */
function clientOf(portalId) {
  if (!clients.has(portalId)) {
    const accessToken = tokens[portalId];
    clients.set(portalId, new hubspot.Client({ accessToken, basePath: HUBSPOT_URL, numberOfApiCallRetries: RETRIES_MAX, limiterOptions }));
  }
  return clients.get(portalId);
}

// What downstream asks for; other types get HubSpot's defaults.
const PROPERTIES = {
  '0-1': ['email', 'firstname', 'lastname', 'phone', 'company', 'jobtitle', 'lifecyclestage', 'hs_lead_status', 'hubspot_owner_id', 'createdate', 'lastmodifieddate'],
};
const ASSOCIATIONS = { '0-1': ['companies'] };

const connection = await amqp.connect(AMQP_URL, { noDelay: true });
const channel = await connection.createConfirmChannel();
for (const queue of [INTAKE, OUT]) {
  await channel.assertQueue(queue, { durable: true, arguments: { 'x-queue-type': 'quorum' } });
}
await channel.prefetch(Number(CONCURRENCY));

/** The record that a notification is about; null when it is gone, or when there is none. */
async function read({ portalId, objectTypeId, objectId }) {
  if (objectId === undefined) return null; // An association has two ends and no record.
  try {
    const { basicApi } = clientOf(portalId).crm.objects;
    return await basicApi.getById(objectTypeId, String(objectId), PROPERTIES[objectTypeId], undefined, ASSOCIATIONS[objectTypeId]);
  } catch (error) {
    if (error.code === 404) return null;
    throw error;
  }
}

function publish(enriched) {
  const options = { persistent: true, mandatory: true, contentType: 'application/json', messageId: String(enriched.notification.eventId) };
  return new Promise((resolve, reject) => {
    channel.sendToQueue(OUT, Buffer.from(JSON.stringify(enriched)), options, (error) => (error ? reject(error) : resolve()));
  });
}

async function handle(message) {
  const notification = JSON.parse(message.content);
  try {
    await publish({ notification, record: await read(notification) });
    channel.ack(message);
  } catch (error) {
    console.error(`event ${notification.eventId}: ${error.code ?? error.message}`);
    await sleep(REQUEUE_DELAY_MS);
    channel.nack(message);
  }
}

await channel.consume(INTAKE, handle);
