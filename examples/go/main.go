// A consumer in Go: `go run . amqp://guest:guest@127.0.0.1:5672/%2f crm.destination.billing`.
//
// What it keeps is in memory here; keep it in a database, and write what a message changes in one transaction before
// you acknowledge it.
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"os"

	amqp "github.com/rabbitmq/amqp091-go"
)

// EnrichedEvent is what this consumer needs of schemas/v1/enriched-event.json.
type EnrichedEvent struct {
	Source  string `json:"source"`
	Subject string `json:"subject"`
	Data    struct {
		Version string `json:"version"`
		Events  []struct {
			ID string `json:"id"`
		} `json:"events"`
		Record    *Record         `json:"record"`
		Tombstone json.RawMessage `json:"tombstone"`
	} `json:"data"`
}

// Record keeps values as they came: json.Unmarshal would make floats of HubSpot's digits.
type Record struct {
	Properties map[string]json.RawMessage `json:"properties"`
}

// Store is what we know, by `source/subject`: one record of one portal.
type Store struct {
	seen     map[string]bool
	versions map[string]string
	records  map[string]*Record
}

// take takes in a message, and says what came of it.
func (store *Store) take(message EnrichedEvent) string {
	fresh := 0
	for _, event := range message.Data.Events {
		if !store.seen[event.ID] {
			store.seen[event.ID] = true
			fresh++
		}
	}
	return fmt.Sprintf("%s %s %s, %d new events", message.Subject, message.Data.Version, store.keep(message), fresh)
}

func (store *Store) keep(message EnrichedEvent) string {
	key := message.Source + "/" + message.Subject
	// Of two messages about one record the one with the greater version is newer.
	if store.versions[key] >= message.Data.Version {
		return "outdated"
	}
	store.versions[key] = message.Data.Version
	switch {
	case message.Data.Tombstone != nil:
		delete(store.records, key)
		return "removed"
	case message.Data.Record != nil:
		store.records[key] = message.Data.Record
		return "stored"
	}
	return "unread"
}

func main() {
	url, queue := os.Args[1], os.Args[2]
	connection, err := amqp.Dial(url)
	check(err)
	channel, err := connection.Channel()
	check(err)
	check(channel.Qos(50, 0, false))
	deliveries, err := channel.Consume(queue, "", false, false, false, false, nil)
	check(err)
	store := Store{map[string]bool{}, map[string]string{}, map[string]*Record{}}
	for delivery := range deliveries {
		var message EnrichedEvent
		check(json.Unmarshal(delivery.Body, &message))
		fmt.Println(store.take(message))
		check(delivery.Ack(false))
	}
	log.Fatal("the broker ended the consumer")
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
