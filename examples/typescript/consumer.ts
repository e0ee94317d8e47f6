// A consumer in TypeScript: `node consumer.js amqp://guest:guest@127.0.0.1:5672/%2f crm.destination.billing`.
//
// `enriched-event.d.ts` is made from the schema, and this file into JavaScript, by
//
//   json2ts schemas/v1/enriched-event.json examples/typescript/enriched-event.d.ts
//   tsc --strict --module nodenext examples/typescript/consumer.ts
//
// What it keeps is in memory here; keep it in a database, and write what a message changes in one transaction before
// you acknowledge it.

import * as amqp from 'amqplib';
import type { EnrichedEvent, Record as CrmRecord } from './enriched-event';

/** What we know, by `source/subject`: one record of one portal. */
class Store {
  private readonly seen = new Set<string>();
  private readonly versions = new Map<string, string>();
  private readonly records = new Map<string, CrmRecord>();

  /** Takes in a message, and says what came of it. */
  take({ source, subject, data }: EnrichedEvent): string {
    const fresh = data.events.filter((event) => !this.seen.has(event.id));
    fresh.forEach((event) => this.seen.add(event.id));
    return `${subject} ${data.version} ${this.keep(`${source}/${subject}`, data)}, ${fresh.length} new events`;
  }

  private keep(key: string, data: EnrichedEvent['data']): string {
    // Of two messages about one record the one with the greater version is newer.
    if ((this.versions.get(key) ?? '') >= data.version) return 'outdated';
    this.versions.set(key, data.version);
    if (data.tombstone) {
      this.records.delete(key);
      return 'removed';
    }
    if (data.record === null) return 'unread';
    this.records.set(key, data.record);
    return 'stored';
  }
}

async function main(url: string, queue: string): Promise<void> {
  const connection = await amqp.connect(url);
  const channel = await connection.createChannel();
  await channel.prefetch(50);
  const store = new Store();
  await channel.consume(queue, (message) => {
    if (message === null) throw new Error('the broker ended the consumer');
    console.log(store.take(JSON.parse(message.content.toString()) as EnrichedEvent));
    channel.ack(message);
  });
}

main(process.argv[2], process.argv[3]).catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
