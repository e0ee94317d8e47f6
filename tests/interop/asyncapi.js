// AsyncAPI's own parser reads schemas/asyncapi.json, with the schemas beside it.
'use strict';

const { join } = require('node:path');
const { Parser, fromFile } = require('@asyncapi/parser');
const { check } = require('./check.js');

const DOCUMENT = join(__dirname, '../../schemas/asyncapi.json');
// The parser's severities: 0 is an error, 1 a warning; above are hints, such as that AsyncAPI 3.1 is out.
const WARNING = 1;

async function main() {
  const { document, diagnostics } = await fromFile(new Parser(), DOCUMENT).parse();
  const troubles = diagnostics.filter(({ severity }) => severity <= WARNING);
  check("AsyncAPI's parser accepts schemas/asyncapi.json", document && troubles.length === 0, troubles);
  const payload = (id) => document.messages().all().find((message) => message.id() === id)?.payload()?.json();
  const event = payload('enrichedEvent');
  check('its payloads are the schemas beside it', event?.title === 'EnrichedEvent' && event.properties.data !== undefined, event);
}

main().catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
