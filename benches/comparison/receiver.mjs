// The receiver that a team writes in an afternoon, for `make bench` to compare crm-relay with.
//
// It verifies the signature by HubSpot's SDK, publishes one persistent, mandatory message per notification to a quorum
// queue, and answers 204 once the broker has confirmed them all: the same promise as the relay's.

import { createServer } from 'node:http';
import amqp from 'amqplib';
import hubspot from '@hubspot/api-client';

const { AMQP_URL, PORT, PUBLIC_URL, CLIENT_SECRET, QUEUE_PREFIX } = process.env;
const INTAKE = `${QUEUE_PREFIX}.intake`;

const connection = await amqp.connect(AMQP_URL, { noDelay: true });
const channel = await connection.createConfirmChannel();
await channel.assertQueue(INTAKE, { durable: true, arguments: { 'x-queue-type': 'quorum' } });

function publish(notification) {
  const content = Buffer.from(JSON.stringify(notification));
  const options = { persistent: true, mandatory: true, contentType: 'application/json', messageId: String(notification.eventId) };
  return new Promise((resolve, reject) => {
    channel.sendToQueue(INTAKE, content, options, (error) => (error ? reject(error) : resolve()));
  });
}

function isGenuine(request, requestBody) {
  try {
    return hubspot.Signature.isValid({
      method: request.method,
      signatureVersion: 'v3',
      signature: request.headers['x-hubspot-signature-v3'],
      timestamp: Number(request.headers['x-hubspot-request-timestamp']),
      clientSecret: CLIENT_SECRET,
      url: PUBLIC_URL,
      requestBody,
    });
  } catch {
    return false; // Too old.
  }
}

async function handle(request) {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const body = Buffer.concat(chunks).toString();
  if (!isGenuine(request, body)) return 401;
  await Promise.all(JSON.parse(body).map(publish));
  return 204;
}

const server = createServer((request, response) => {
  handle(request)
    .catch(() => 503) // HubSpot sends again.
    .then((status) => response.writeHead(status).end());
});
server.listen(Number(PORT), '127.0.0.1');
