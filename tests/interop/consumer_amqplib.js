// amqplib reads the destination's queue; the CloudEvents SDK for JavaScript parses what it reads.
//
// Called with the file of settings that run.py writes.
'use strict';

const { readFileSync, writeFileSync } = require('node:fs');
const { join } = require('node:path');
const { isDeepStrictEqual } = require('node:util');
const amqp = require('amqplib');
const { HTTP } = require('cloudevents');
const { check } = require('./check.js');

const QUEUE = 'crm.destination.amqplib';
const READ_MS_MAX = 60_000;
const MESSAGES_MAX = 10_000;
const PERSISTENT = 2;

const settings = JSON.parse(readFileSync(process.argv[2], 'utf8'));
const expected = ['python', 'node'].map((sdk) =>
  JSON.parse(readFileSync(join(settings.folder, `expected-${sdk}.json`), 'utf8')));

/** Takes messages until every accepted event has come, at most for a while. */
async function read() {
  const connection = await amqp.connect(settings.amqp_url);
  const channel = await connection.createChannel();
  await channel.prefetch(50);
  const missing = new Set(expected.flatMap((deal) => deal.accepted));
  const messages = [];
  await new Promise((done, fail) => {
    setTimeout(done, READ_MS_MAX).unref();
    channel.on('error', fail);
    channel.consume(QUEUE, (message) => {
      if (message === null) return fail(new Error('the broker cancelled the consumer'));
      if (missing.size === 0 || messages.length === MESSAGES_MAX) return done();
      channel.ack(message);
      messages.push(message);
      for (const change of JSON.parse(message.content).data.events) missing.delete(change.hubspot_event_id);
      if (missing.size === 0) done();
    }).catch(fail);
  });
  await channel.close();
  await connection.close();
  return messages;
}

/** The message as the SDK sees it. CloudEvents has no binding of AMQP 0-9-1 in this SDK; structured mode is the same. */
const parse = ({ content, properties }) =>
  HTTP.toEvent({ headers: { 'content-type': properties.contentType }, body: content.toString() });

/** Whether the SDK's view of a message is what its AMQP properties and its plain JSON say. */
function agrees(event, { content, properties }) {
  const plain = JSON.parse(content);
  const newest = event.data.events.map((change) => change.occurred_at).sort().at(-1);
  return properties.contentType === 'application/cloudevents+json'
    && properties.deliveryMode === PERSISTENT
    && properties.messageId === event.id && event.id === plain.id
    && properties.type === event.type && event.type === plain.type
    && event.validate()
    && event.specversion === '1.0'
    && event.source === `hubspot/${event.data.portal_id}`
    && event.subject === `${event.data.object_type}/${event.data.object_id}`
    && event.type.startsWith(`crm.${event.data.object_type}.`)
    && event.datacontenttype === 'application/json'
    && event.time === newest
    && isDeepStrictEqual(event.data, plain.data);
}

/** Whether `data` is the deal as it stands in the CRM, typed, with its company and its stage. */
function isComplete(deal, data) {
  const wanted = { ...deal.properties, amount: 1234.5 };
  return data.enrichment.status === 'complete'
    && Object.entries(wanted).every(([name, value]) => data.record.properties[name] === value)
    && isDeepStrictEqual(data.associations.company.map((company) => company.id), [deal.company_id])
    && data.pipeline.stage.id === 'qualifiedtobuy' && data.pipeline.stage.label === 'Qualified To Buy';
}

/** Checks what came of one SDK's deal: `events` are the CloudEvents of it, in the queue's order. */
function checkDeal(deal, events) {
  const name = deal.properties.dealname;
  const seen = events.flatMap((event) => event.data.events).map((change) => change.hubspot_event_id);
  const kinds = events.flatMap((event) => event.data.events).map((change) => change.kind);
  check(`amqplib: the simulator's own notification of ${name} came`, kinds.includes('created'), kinds);
  check(`amqplib: every accepted event of ${name} came`, deal.accepted.every((id) => seen.includes(id)), seen);
  check(`amqplib: no refused event of ${name} came`, !deal.refused.some((id) => seen.includes(id)), seen);
  const last = events.at(-1)?.data;
  check(`amqplib: ${name} is complete and typed`, last && isComplete(deal, last), last);
  const versions = events.map((event) => event.data.version);
  check(`amqplib: the versions of ${name} rise`, isDeepStrictEqual(versions, [...new Set(versions)].sort()), versions);
}

async function main() {
  const messages = await read();
  check('amqplib: the queue has messages', messages.length > 0, messages.length);
  const events = messages.map(parse);
  const odd = messages.filter((message, index) => !agrees(events[index], message)).map(({ content }) => content.toString());
  check("CloudEvents' JavaScript SDK agrees with every message's fields", messages.length > 0 && odd.length === 0, odd[0]);
  const ids = expected.flatMap((deal) => {
    const ofDeal = events.filter((event) => event.subject === `deal/${deal.deal_id}`);
    checkDeal(deal, ofDeal);
    return ofDeal.map((event) => event.id);
  });
  writeFileSync(join(settings.folder, 'seen-amqplib.json'), JSON.stringify(ids.sort()));
}

main().catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
