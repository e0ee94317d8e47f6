// HubSpot's Node SDK: makes a deal in the CRM, and signs notifications about it as HubSpot would.
//
// What it signed is accepted; what was tampered with is refused. Leaves behind what the consumers must find, and
// what they must not. Called with the file of settings that run.py writes.
'use strict';

const { readFileSync, writeFileSync } = require('node:fs');
const { join } = require('node:path');
const { Client, Signature } = require('@hubspot/api-client');
const { check } = require('./check.js');

const NAME = "HubSpot's Node SDK";
const TIMEOUT_MS = 10_000;
// Events that we sign are told from the simulator's by these numbers.
const FIRST_EVENT_ID = 1_000_200;
// HubSpot's association type of a deal with a company, and how old a signature may be.
const DEAL_TO_COMPANY = 341;
const MAX_AGE_MS = 300_000;

const settings = JSON.parse(readFileSync(process.argv[2], 'utf8'));
const { client_secret: secret, public_url: publicUrl } = settings;

/** A deal with what is hard to carry: text beyond ASCII, digits, an association. */
async function makeDeal() {
  const { crm } = new Client({ accessToken: settings.access_token, basePath: settings.hubspot_url });
  const company = await crm.companies.basicApi.create({ properties: { name: 'Ærø & Søn' }, associations: [] });
  const types = [{ associationCategory: 'HUBSPOT_DEFINED', associationTypeId: DEAL_TO_COMPANY }];
  const properties = { dealname: 'Zoë ☕ node', amount: '1234.50', pipeline: 'default', dealstage: 'qualifiedtobuy' };
  const deal = await crm.deals.basicApi.create({ properties, associations: [{ to: { id: company.id }, types }] });
  return { deal_id: deal.id, company_id: company.id, properties };
}

/** A change of the deal's name to what it is, as the body of a request. */
function notification(eventId, deal) {
  return JSON.stringify([{
    eventId, subscriptionId: 3900002, portalId: Number(settings.portal_id), appId: 15000001,
    occurredAt: Date.now(), subscriptionType: 'object.propertyChange', attemptNumber: 0,
    objectId: Number(deal.deal_id), objectTypeId: '0-3', propertyName: 'dealname',
    propertyValue: deal.properties.dealname, changeSource: 'CRM_UI', sourceId: 'userId:75500001',
    isSensitive: false,
  }]);
}

/** The headers that HubSpot would send with `body`, computed by the SDK. */
function sign(version, body, timestamp, { url = publicUrl, key = secret } = {}) {
  const signature = Signature.getSignature('POST', version, { clientSecret: key, requestBody: body, url, timestamp });
  return version === 'v3'
    ? { 'X-HubSpot-Signature-v3': signature, 'X-HubSpot-Request-Timestamp': String(timestamp) }
    : { 'X-HubSpot-Signature': signature, 'X-HubSpot-Signature-Version': version };
}

/** Checks the status that the relay answers one request with. */
async function expect(claim, wanted, body, signature) {
  const headers = { 'Content-Type': 'application/json', ...signature };
  const signal = AbortSignal.timeout(TIMEOUT_MS);
  const { status } = await fetch(settings.receiver_url, { method: 'POST', headers, body, signal });
  check(`${NAME}: ${claim} is answered ${wanted}`, status === wanted, status);
}

async function main() {
  const deal = await makeDeal();
  const now = Date.now();
  const [accepted, refused] = [[], []];
  let eventId = FIRST_EVENT_ID;
  const bodyFor = (ids) => {
    ids.push(String(eventId));
    return notification(eventId++, deal);
  };

  let body = bodyFor(refused);
  await expect('a v3 signature of another URL', 401, body, sign('v3', body, now, { url: `${publicUrl}/other` }));
  body = bodyFor(refused);
  await expect('a v3 signature older than five minutes', 401, body, sign('v3', body, now - MAX_AGE_MS - 10_000));
  body = bodyFor(refused);
  await expect('a v1 signature beside a wrong v3', 401, body, { ...sign('v3', `${body} `, now), ...sign('v1', body) });
  body = bodyFor(refused);
  await expect('no signature', 401, body, {});
  // What is accepted comes last, so that a consumer who has it would have had what was refused.
  for (const version of ['v2', 'v1', 'v3']) {
    body = bodyFor(refused);
    await expect(`a body changed after the ${version} signature`, 401, body, sign(version, `${body} `, now));
    body = bodyFor(refused);
    await expect(`a ${version} signature with another secret`, 401, body, sign(version, body, now, { key: `${secret}x` }));
    body = bodyFor(accepted);
    await expect(`a ${version} signature`, 204, body, sign(version, body, now));
  }

  writeFileSync(join(settings.folder, 'expected-node.json'), JSON.stringify({ ...deal, accepted, refused }));
}

main().catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
