//! The configuration: what loads, what is refused and in which words, and that no secret is ever told.

use crm_relay::config::{Config, ConfigError, OneOrMany, Role, SignatureVersion, load_with};
use std::path::PathBuf;
use std::time::Duration;

/// Nobody may ever read this in an output.
const SECRET: &str = "hunter2";

/// A configuration that runs in every role.
const COMPLETE: &str = r##"
[receiver]
listen = "127.0.0.1:8080"
public_url = "https://relay.example.com/webhooks/hubspot"
[admin]
listen = "127.0.0.1:9090"
[app.main]
client_secrets = ["hunter2"]
signatures = ["v3"]
[bus]
url = "amqp://guest:hunter2@127.0.0.1:5672/%2f"
data_dir = "./data"
[hubspot]
base_url = "https://api.hubapi.com"
api_version = "2026-09"
[portal.8241]
access_token = "hunter2"
[enrich.contact]
properties = ["*"]
associations = ["company", "deal"]
[destination.billing]
kind = "queue"
match = ["*.contact.#", "*.deal.property_changed.dealstage"]
"##;

fn load(text: &str, variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("relay.toml");
    std::fs::write(&path, text).unwrap();
    let variables = variables
        .iter()
        .map(|&(name, value)| (name.to_owned(), value.to_owned()));
    load_with(Some(&path), variables)
}

/// The error's text, with the temporary folder's name left out.
fn refusal(text: &str, variables: &[(&str, &str)]) -> String {
    let error = load(text, variables).unwrap_err();
    assert!(!format!("{error:?}").contains(SECRET), "{error:?}");
    let text = error.to_string();
    assert!(!text.contains(SECRET), "{text}");
    match (text.find('/'), text.find("relay.toml")) {
        (Some(from), Some(to)) if from < to => format!("{}{}", &text[..from], &text[to..]),
        _ => text,
    }
}

#[test]
fn a_complete_file_loads_and_can_run_in_every_role() {
    let config = load(COMPLETE, &[]).unwrap();
    assert_eq!(config.receiver.listen.port(), 8080);
    assert_eq!(
        config.receiver.public_url,
        OneOrMany::One("https://relay.example.com/webhooks/hubspot".into())
    );
    assert_eq!(config.app["main"].signatures, [SignatureVersion::V3]);
    assert_eq!(
        config.enrich["contact"].associations.as_deref().unwrap(),
        ["company", "deal"]
    );
    assert_eq!(config.destination["billing"].patterns.len(), 2);
    assert_eq!(config.bus.data_dir, PathBuf::from("./data"));
    for role in [Role::Run, Role::Receiver, Role::Worker] {
        assert_eq!(config.check(role).unwrap(), [], "{role:?}");
    }
}

#[test]
fn what_is_left_out_has_its_default() {
    let config = load("", &[]).unwrap();
    assert_eq!(format!("{config:?}"), format!("{:?}", Config::default()));
    let config = load("[bus]\nprefix = 'relay'", &[]).unwrap();
    assert_eq!(
        (config.bus.prefix.as_str(), config.bus.partitions),
        ("relay", 16)
    );
}

#[test]
fn durations_sizes_and_lists_are_read() {
    let config = load(
        "[receiver]\nbody_size_max = '2 MiB'\npublic_url = ['https://a.example/x', 'https://b.example/x']\n\
         [bus]\npublish_timeout = '1500ms'\n[destination.log]\nkind = 'ndjson'\npath = '-'",
        &[],
    )
    .unwrap();
    assert_eq!(config.receiver.body_size_max.as_u64(), 2 << 20);
    assert_eq!(config.receiver.public_url.as_slice().len(), 2);
    assert_eq!(config.bus.publish_timeout, Duration::from_millis(1_500));
    assert_eq!(config.destination["log"].patterns[0].to_string(), "#");
}

#[test]
fn the_environment_lies_over_the_file() {
    let config = load(
        COMPLETE,
        &[
            ("CRM_RELAY__RECEIVER__LISTEN", "0.0.0.0:80"),
            ("CRM_RELAY__BUS__PARTITIONS", "4"),
            ("CRM_RELAY__BUS__PUBLISH_TIMEOUT", "2s"),
            ("CRM_RELAY__RECEIVER__BODY_SIZE_MAX", "1048576"),
            ("CRM_RELAY__LOG__FORMAT", "json"),
            ("CRM_RELAY__PORTAL__77__ACCESS_TOKEN", "env:OTHER"),
            ("CRM_RELAY__ENRICH__DEAL__ASSOCIATIONS", "contact, company"),
            (
                "CRM_RELAY__ENRICH__DEAL__PROPERTIES",
                r#"["amount", "dealstage"]"#,
            ),
            ("CRM_RELAY_CONFIG", "not ours to read here"),
            ("CRM_RELAY_SERVICE_HOST", "10.0.0.1"),
        ],
    )
    .unwrap();
    assert_eq!(config.receiver.listen.to_string(), "0.0.0.0:80");
    assert_eq!(config.bus.partitions, 4);
    assert_eq!(config.bus.publish_timeout, Duration::from_secs(2));
    assert_eq!(config.receiver.body_size_max.as_u64(), 1 << 20);
    assert_eq!(config.portal.keys().collect::<Vec<_>>(), ["77", "8241"]);
    assert_eq!(
        config.enrich["deal"].associations.as_deref().unwrap(),
        ["contact", "company"]
    );
    assert_eq!(
        config.enrich["deal"].properties.as_deref().unwrap(),
        ["amount", "dealstage"]
    );
}

#[test]
fn a_list_in_the_environment_is_a_toml_array_or_separated_by_commas() {
    for (text, expected) in [
        ("https://a.example/x", &["https://a.example/x"][..]),
        (
            "https://a.example/x,https://b.example/y",
            &["https://a.example/x", "https://b.example/y"],
        ),
        (
            r#"["https://a.example/x?a=1,2"]"#,
            &["https://a.example/x?a=1,2"],
        ),
        ("", &[]),
    ] {
        let config = load("", &[("CRM_RELAY__RECEIVER__PUBLIC_URL", text)]).unwrap();
        assert_eq!(config.receiver.public_url.as_slice(), expected, "{text}");
    }
}

#[test]
fn a_variable_finds_a_key_that_no_variable_can_spell() {
    let file =
        "[destination.Billing-EU]\nkind = 'ndjson'\npath = 'a'\n[enrich.0-1]\nproperties = ['*']";
    let config = load(
        file,
        &[
            ("CRM_RELAY__DESTINATION__BILLING_EU__PATH", "b"),
            ("CRM_RELAY__ENRICH__0_1__PROPERTIES", "email"),
        ],
    )
    .unwrap();
    assert_eq!(config.destination.len(), 1);
    assert_eq!(
        config.destination["Billing-EU"].path,
        Some(PathBuf::from("b"))
    );
    assert_eq!(
        config.enrich["0-1"].properties.as_deref().unwrap(),
        ["email"]
    );
}

#[test]
fn a_wrong_setting_is_told_with_its_key_its_place_and_what_to_write() {
    let refusals = [
        refusal("[receiver]\n\nlisen = '127.0.0.1:1'", &[]),
        refusal("[reciever]\nlisten = '127.0.0.1:1'", &[]),
        refusal(
            "[app.main]\nclient_secrets = ['env:A']\ncolour = 'hunter2'",
            &[],
        ),
        refusal("[app.main]\nsignatures = ['v3']", &[]),
        refusal("[app.main]\nclient_secrets = 'hunter2'", &[]),
        refusal(
            "[app.main]\nclient_secrets = ['env:A']\nsignatures = ['v4']",
            &[],
        ),
        refusal("[receiver]\nlisten = '8080'", &[]),
        refusal("[bus]\npartitions = 70000", &[]),
        refusal("[bus]\npartitions = 'many'", &[]),
        refusal("[bus]\npublish_timeout = 3", &[]),
        refusal("[portal]\n8241 = 'hunter2'", &[]),
        refusal("[portal.8241]\naccess_token = ['hunter2']", &[]),
        refusal("[destination.a]\nkind = 'kafka'", &[]),
        refusal("[destination.a]\nkind = 'queue'\nmatch = ['con*.#']", &[]),
        refusal("[receiver]\npublic_url = 1", &[]),
        refusal("[bus]\nurl = hunter2", &[]),
        refusal("[bus]\nprefix = 'a'\nprefix = 'b'", &[]),
        refusal("", &[("CRM_RELAY__BUS__PARTITIONS", "a few")]),
        refusal("", &[("CRM_RELAY__BUS__PARTITONS", "16")]),
        refusal("", &[("CRM_RELAY__APP", "hunter2")]),
        refusal("", &[("CRM_RELAY__BUS__", "16")]),
        refusal(
            "[bus]\nprefix = 'a'",
            &[("CRM_RELAY__BUS__PREFIX__X", "hunter2")],
        ),
        refusal(
            "",
            &[("CRM_RELAY__APP__MAIN__CLIENT_SECRETS", "['hunter2'")],
        ),
        load_with(Some("no/such/relay.toml".as_ref()), [])
            .unwrap_err()
            .to_string(),
    ];
    insta::assert_snapshot!(refusals.join("\n"));
}

#[test]
fn no_mistake_with_a_secret_tells_its_value() {
    for text in [
        "[app.main]\nclient_secrets = 'hunter2'",
        "[app.main]\nclient_secrets = [['hunter2']]",
        "[app]\nmain = 'hunter2'",
        "[app.main]\nclient_secret = 'hunter2'",
        "[portal.8241]\naccess_token = { value = 'hunter2' }",
        "[portal]\n8241 = 'hunter2'",
        "[bus]\nurl = ['hunter2']",
        "[bus]\nurl = 'hunter2",
        "[receiver]\npublic_url = { x = 'hunter2' }",
        "hunter2 = 'hunter2' 'hunter2'",
        "receiver = 'hunter2'",
    ] {
        refusal(text, &[]);
    }
}

/// `COMPLETE` with every `from` replaced, or lines added where `from` is empty.
fn changed(from: &str, to: &str) -> Config {
    let text = match from {
        "" => format!("{COMPLETE}\n{to}"),
        _ => {
            assert!(COMPLETE.contains(from), "{from}");
            COMPLETE.replace(from, to)
        }
    };
    load(&text, &[]).unwrap()
}

#[test]
fn every_rule_refuses_what_it_is_for_and_names_the_setting() {
    let url = "https://relay.example.com/webhooks/hubspot";
    let broker = "url = \"amqp://guest:hunter2@127.0.0.1:5672/%2f\"";
    let secrets = "client_secrets = [\"hunter2\"]";
    let token = "access_token = \"hunter2\"";
    let base = "https://api.hubapi.com";
    let kind = "kind = \"queue\"";
    let file =
        |name: &str, path: &str| format!("[destination.{name}]\nkind = 'ndjson'\npath = '{path}'");
    let two_files = format!(
        "{}\n{}",
        file("a", "out/../x.ndjson"),
        file("b", "./out/../x.ndjson")
    );
    let two_stdouts = format!("{}\n{}", file("a", "-"), file("b", "-"));
    let cases: &[(&str, &str, Role, &str)] = &[
        (
            &format!("public_url = \"{url}\""),
            "",
            Role::Receiver,
            "receiver.public_url",
        ),
        (
            url,
            "relay.example.com/webhooks",
            Role::Run,
            "receiver.public_url",
        ),
        (
            url,
            "ftp://relay.example.com/",
            Role::Run,
            "receiver.public_url",
        ),
        (url, "https:///webhooks", Role::Run, "receiver.public_url"),
        (
            url,
            "https://relay.example.com",
            Role::Run,
            "receiver.public_url",
        ),
        (
            url,
            "https://relay.example.com/x#y",
            Role::Run,
            "receiver.public_url",
        ),
        (
            url,
            "https://me:hunter2@relay.example.com/x",
            Role::Run,
            "receiver.public_url",
        ),
        (
            &format!("[app.main]\n{secrets}\nsignatures = [\"v3\"]"),
            "",
            Role::Receiver,
            "app",
        ),
        (
            secrets,
            "client_secrets = []",
            Role::Run,
            "app.main.client_secrets",
        ),
        (
            secrets,
            "client_secrets = ['a', 'env:CRM_RELAY_NO_SUCH']",
            Role::Receiver,
            "app.main.client_secrets[1]",
        ),
        (
            secrets,
            "client_secrets = ['file:/no/such/file']",
            Role::Run,
            "app.main.client_secrets[0]",
        ),
        (
            secrets,
            "client_secrets = ['']",
            Role::Run,
            "app.main.client_secrets[0]",
        ),
        (
            "signatures = [\"v3\"]",
            "signatures = []",
            Role::Run,
            "app.main.signatures",
        ),
        (
            "[admin]",
            "requests_max = 0\n[admin]",
            Role::Run,
            "receiver.requests_max",
        ),
        (
            "[admin]",
            "body_size_max = 0\n[admin]",
            Role::Run,
            "receiver.body_size_max",
        ),
        (
            "127.0.0.1:9090",
            "127.0.0.1:8080",
            Role::Run,
            "admin.listen",
        ),
        (
            "127.0.0.1:9090",
            "0.0.0.0:8080",
            Role::Receiver,
            "admin.listen",
        ),
        (
            broker,
            "url = \"https://hunter2@example.com\"",
            Role::Run,
            "bus.url",
        ),
        (broker, "url = \"hunter2\"", Role::Run, "bus.url"),
        (
            broker,
            "url = \"env:CRM_RELAY_NO_SUCH\"",
            Role::Run,
            "bus.url",
        ),
        (broker, "url = \"\"", Role::Run, "bus.url"),
        (broker, "prefix = \"My Prefix\"", Role::Run, "bus.prefix"),
        (broker, "partitions = 0", Role::Run, "bus.partitions"),
        (broker, "partitions = 1025", Role::Run, "bus.partitions"),
        (
            broker,
            "publish_timeout = \"5s\"",
            Role::Run,
            "bus.publish_timeout",
        ),
        (
            broker,
            "publish_timeout = \"0s\"",
            Role::Run,
            "bus.publish_timeout",
        ),
        ("", "[shutdown]\ngrace = '2s'", Role::Run, "shutdown.grace"),
        ("", "[shutdown]\ndelay = '23s'", Role::Run, "shutdown.grace"),
        ("", "[log]\nfilter = 'inof'", Role::Run, "log.filter"),
        (base, "http://api.hubapi.com", Role::Run, "hubspot.base_url"),
        (base, "api.hubapi.com", Role::Run, "hubspot.base_url"),
        (
            base,
            "https://me:hunter2@api.hubapi.com",
            Role::Run,
            "hubspot.base_url",
        ),
        (
            base,
            "https://api.hubapi.com/?hapikey=hunter2",
            Role::Run,
            "hubspot.base_url",
        ),
        ("2026-09", "v4", Role::Run, "hubspot.api_version"),
        ("2026-09", "2026-13", Role::Run, "hubspot.api_version"),
        ("2026-09", "2026-9", Role::Run, "hubspot.api_version"),
        (
            "[portal.8241]",
            "budget_share = 1.5\n[portal.8241]",
            Role::Run,
            "hubspot.budget_share",
        ),
        (
            "[portal.8241]",
            "timeout = '0s'\n[portal.8241]",
            Role::Run,
            "hubspot.timeout",
        ),
        ("", "[worker]\nprefetch = 0", Role::Run, "worker.prefetch"),
        ("", "[spool]\nfolder = ''", Role::Run, "spool.folder"),
        (
            "",
            "[spool]\nfolder = 'spool'",
            Role::Worker,
            "spool.folder",
        ),
        (
            "",
            "[spool]\nbytes_max = '1 MiB'",
            Role::Run,
            "spool.bytes_max",
        ),
        ("[portal.8241]", "[portal.acme]", Role::Run, "portal.acme"),
        ("[portal.8241]", "[portal.08241]", Role::Run, "portal.08241"),
        (
            token,
            "access_token = 'env:CRM_RELAY_NO_SUCH'",
            Role::Worker,
            "portal.8241.access_token",
        ),
        (
            token,
            "access_token = 'a'\nrefresh_token = 'b'",
            Role::Run,
            "portal.8241",
        ),
        (token, "paused = true", Role::Run, "portal.8241"),
        (token, "refresh_token = 'b'", Role::Run, "portal.8241.app"),
        (
            token,
            "refresh_token = 'b'\napp = 'main'",
            Role::Worker,
            "portal.8241.app",
        ),
        (
            token,
            "access_token = 'sealed:b'",
            Role::Run,
            "portal.8241.access_token",
        ),
        (
            "[app.main]",
            "[app.main]\nclient_id = ''",
            Role::Run,
            "app.main.client_id",
        ),
        ("", "[portals]\nfolder = '/'", Role::Run, "portals.keys"),
        (
            "",
            "[portals]\nfolder = '/nowhere/at/all'",
            Role::Run,
            "portals.folder",
        ),
        (
            "",
            "[portals]\nkeys = ['aHVudGVyMg==']",
            Role::Run,
            "portals.keys[0]",
        ),
        (
            "[admin]",
            "[admin]\ntoken = 'hunter2'",
            Role::Run,
            "admin.token",
        ),
        ("", "[enrich.0-1]", Role::Run, "enrich.contact"),
        (
            "[\"company\", \"deal\"]",
            "['company', 'companies']",
            Role::Run,
            "enrich.contact.associations",
        ),
        (
            "[\"company\", \"deal\"]",
            "['company', 'company']",
            Role::Run,
            "enrich.contact.associations",
        ),
        (
            "[\"*\"]",
            "['*', 'email']",
            Role::Run,
            "enrich.contact.properties",
        ),
        (
            "[enrich.contact]",
            "[enrich.conversation]",
            Role::Run,
            "enrich.conversation.properties",
        ),
        (
            "",
            "[enrich.deal]\nthread = true\n",
            Role::Run,
            "enrich.deal.thread",
        ),
        (
            "",
            "[enrich.deal]\nattachments = 'metadata'\n",
            Role::Run,
            "enrich.deal.attachments",
        ),
        (
            "",
            "[enrich.deal]\nexternal_id = 'Order Number'",
            Role::Run,
            "enrich.deal.external_id",
        ),
        (
            token,
            "access_token = 'x'\nexternal_id = { contact = '' }",
            Role::Run,
            "portal.8241.external_id.contact",
        ),
        (
            token,
            "access_token = 'x'\nexternal_id = { contact = 'a', 0-1 = 'b' }",
            Role::Run,
            "portal.8241.external_id",
        ),
        (
            "",
            "[enrich.deal]\nsensitivity = ['sensitive', 'sensitive']",
            Role::Run,
            "enrich.deal.sensitivity",
        ),
        (
            "[destination.billing]",
            "[destination.Billing]",
            Role::Run,
            "destination.Billing",
        ),
        (broker, "", Role::Run, "destination.billing.kind"),
        (
            kind,
            "kind = 'queue'\npath = 'x'",
            Role::Run,
            "destination.billing.path",
        ),
        (
            kind,
            "kind = 'queue'\nmax_length_bytes = 0",
            Role::Run,
            "destination.billing.max_length_bytes",
        ),
        (
            kind,
            "kind = 'ndjson'",
            Role::Run,
            "destination.billing.path",
        ),
        (
            kind,
            "kind = 'ndjson'\npath = ''",
            Role::Run,
            "destination.billing.path",
        ),
        (
            kind,
            "kind = 'ndjson'\npath = '-'\nmax_length_bytes = '1 GiB'",
            Role::Run,
            "destination.billing.max_length_bytes",
        ),
        (
            "[\"*.contact.#\", \"*.deal.property_changed.dealstage\"]",
            "[]",
            Role::Run,
            "destination.billing.match",
        ),
        ("", &two_files, Role::Run, "destination.b.path"),
        ("", &two_stdouts, Role::Run, "destination.b.path"),
    ];
    for &(from, to, role, key) in cases {
        let report = changed(from, to).report(role);
        let told: Vec<_> = report
            .problems
            .iter()
            .map(|problem| problem.key.as_str())
            .collect();
        assert!(told.contains(&key), "{from} → {to}: {told:?}");
        assert!(!format!("{report:?}").contains(SECRET), "{report:?}");
    }
}

#[test]
fn roles_apart_need_a_broker_and_one_process_does_not() {
    let text = COMPLETE
        .replace("url = \"amqp://guest:hunter2@127.0.0.1:5672/%2f\"", "")
        .replace("kind = \"queue\"", "kind = 'ndjson'\npath = '-'");
    let config = load(&text, &[]).unwrap();
    assert_eq!(config.report(Role::Run).problems, []);
    let spool = load(&text, &[("CRM_RELAY__SPOOL__FOLDER", "spool")]).unwrap();
    let told = spool.report(Role::Run).problems;
    assert_eq!(
        told[0].key, "spool.folder",
        "the embedded bus has a disk: {told:?}"
    );
    for role in [Role::Receiver, Role::Worker] {
        let problems = config.report(role).problems;
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert_eq!(problems[0].key, "bus.url");
    }
}

#[test]
fn a_role_is_not_asked_for_what_it_does_not_use() {
    let no_token = changed(
        "access_token = \"hunter2\"",
        "access_token = 'env:CRM_RELAY_NO_SUCH'",
    );
    assert_eq!(no_token.report(Role::Receiver).problems, []);
    let no_app = changed(
        "client_secrets = [\"hunter2\"]",
        "client_secrets = ['env:CRM_RELAY_NO_SUCH']",
    );
    assert_eq!(no_app.report(Role::Worker).problems, []);
    let with_oauth = changed(
        "client_secrets = [\"hunter2\"]",
        "client_id = 'an-id'\nclient_secrets = ['env:CRM_RELAY_NO_SUCH']",
    );
    let problems = with_oauth.report(Role::Worker).problems;
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!(problems[0].key, "app.main.client_secrets[0]");
    let same_port = changed("127.0.0.1:9090", "127.0.0.1:8080");
    assert_eq!(same_port.report(Role::Worker).problems, []);
}

#[test]
fn port_zero_is_never_taken() {
    let text = COMPLETE.replace(":8080", ":0").replace(":9090", ":0");
    assert_eq!(load(&text, &[]).unwrap().report(Role::Run).problems, []);
}

#[test]
fn a_loopback_host_may_be_plain_text() {
    for host in [
        "127.0.0.1:9000",
        "localhost:9000",
        "[::1]:9000",
        "relay.localhost",
    ] {
        let text = COMPLETE
            .replace("https://api.hubapi.com", &format!("http://{host}"))
            .replace("https://relay.example.com", &format!("http://{host}"));
        let report = load(&text, &[]).unwrap().report(Role::Run);
        assert_eq!(
            (report.problems, report.warnings),
            (vec![], vec![]),
            "{host}"
        );
    }
}

#[test]
fn what_is_risky_is_warned_of_and_runs() {
    let cases = [
        (
            "https://relay.example.com",
            "http://relay.example.com",
            "receiver.public_url",
        ),
        ("[\"v3\"]", "['v3', 'v1']", "app.main.signatures"),
        ("[portal.8241]\naccess_token = \"hunter2\"", "", "portal"),
        ("[enrich.contact]", "[enrich.contcat]", "enrich.contcat"),
    ];
    for (from, to, key) in cases {
        let warnings = changed(from, to).check(Role::Run).unwrap();
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert_eq!(warnings[0].key, key);
    }
}

#[test]
fn all_problems_are_told_together() {
    let text = "[receiver]\npublic_url = 'https://relay.example.com'\n[worker]\nprefetch = 0\n\
                [portal.acme]\naccess_token = 'env:CRM_RELAY_NO_SUCH'";
    let error = load(text, &[]).unwrap().check(Role::Run).unwrap_err();
    insta::assert_snapshot!(error.to_string());
}

#[test]
fn every_way_to_name_a_type_is_accepted_without_a_warning() {
    for name in [
        "contacts",
        "Contact",
        "0-1",
        "0-4711",
        "2-1234567",
        "p8241_car",
        "p_car",
        "meeting",
        "partner_clients",
    ] {
        let config = changed("[enrich.contact]", &format!("[enrich.{name}]"));
        assert_eq!(config.check(Role::Run).unwrap(), [], "{name}");
    }
}

#[test]
fn what_a_destination_asks_for_is_read_from_file_and_environment() {
    let text = format!(
        "{COMPLETE}portals = ['8241']\nchanged = ['amount']\nchange_sources = ['!IMPORT']\n\
         where = {{ lifecyclestage = ['customer'] }}\nparts = ['record', 'owners']\nproperties = ['email']\n\
         format = 'binary'\n[destination.plain]\nkind = 'queue'\ncontent = 'event'"
    );
    let variables = [
        ("CRM_RELAY__DESTINATION__BILLING__PORTALS", "8241, 77"),
        ("CRM_RELAY__DESTINATION__BILLING__WHERE__VIP", "true"),
        ("CRM_RELAY__BUS__EVENTS_TOPIC", "*.contacts.#"),
        ("CRM_RELAY__BUS__ENRICHED_TOPIC", "[]"),
    ];
    let config = load(&text, &variables).unwrap();
    let billing = &config.destination["billing"];
    assert_eq!(billing.portals.as_ref().unwrap(), &["8241", "77"]);
    assert_eq!(billing.values["lifecyclestage"], ["customer"]);
    assert_eq!(billing.values["vip"], ["true"]);
    assert_eq!(billing.parts.as_ref().unwrap().len(), 2);
    assert_eq!(config.bus.enriched_topic, Some(Vec::new()));
    assert_eq!(config.bus.events_topic.as_ref().unwrap().len(), 1);
    assert_eq!(config.check(Role::Run).unwrap(), []);
}

#[test]
fn a_worker_whose_events_go_nowhere_is_warned_of() {
    let warned = |text: &str| {
        let warnings = load(text, &[]).unwrap().report(Role::Worker).warnings;
        warnings.iter().any(|warning| warning.key == "destination")
    };
    let broker = "[bus]\nurl = 'amqp://localhost'\n";
    assert!(!warned(broker), "crm.enriched has them");
    assert!(warned(&format!("{broker}enriched_topic = []")));
    assert!(!warned(&format!(
        "{broker}enriched_topic = []\nevents_topic = ['#']"
    )));
    assert!(warned(""));
}

#[test]
fn a_destination_that_asks_for_what_cannot_be_is_refused_with_its_key() {
    for (settings, key, words) in [
        ("portals = []", "portals", "leave it out for all"),
        ("portals = ['main']", "portals", "the ids of portals"),
        ("changed = []", "changed", "leave it out for all"),
        (
            "change_sources = ['API', '!IMPORT']",
            "change_sources",
            "either those that pass",
        ),
        (
            "change_sources = ['!']",
            "change_sources",
            "either those that pass",
        ),
        ("where = { stage = [] }", "where", "lets nothing pass"),
        (
            "content = 'event'\nwhere = { stage = ['x'] }",
            "where",
            "without a record",
        ),
        (
            "content = 'event'\nparts = ['record']",
            "parts",
            "without a record",
        ),
        (
            "content = 'event'\nproperties = ['email']",
            "properties",
            "without a record",
        ),
        ("parts = []", "parts", "content = \"event\""),
        ("parts = ['record', 'record']", "parts", "each part once"),
        (
            "parts = ['owners']\nproperties = ['email']",
            "properties",
            "add \"record\"",
        ),
        ("properties = ['*']", "properties", "leave it out for all"),
    ] {
        let config = load(&format!("{COMPLETE}{settings}"), &[]).unwrap();
        let error = config.check(Role::Run).unwrap_err().to_string();
        let key = format!("destination.billing.{key}");
        assert!(
            error.contains(&key) && error.contains(words),
            "{settings}: {error}"
        );
    }
    let lines =
        format!("{COMPLETE}[destination.lines]\nkind = 'ndjson'\npath = '-'\nformat = 'binary'");
    let error = load(&lines, &[]).unwrap().check(Role::Run).unwrap_err();
    assert!(
        error.to_string().contains("destination.lines.format"),
        "{error}"
    );
    let text = "[bus]\nevents_topic = ['#']";
    let problems = load(text, &[]).unwrap().report(Role::Worker).problems;
    assert!(
        problems
            .iter()
            .any(|problem| problem.key == "bus.events_topic")
    );
    for (settings, words) in [
        (
            "parts = ['stages']",
            "`record`, `owners`, `associations`, `pipeline`",
        ),
        ("content = 'all'", "`enriched`, `event`"),
        ("format = 'avro'", "`structured`, `binary`"),
        ("portals = [8241]", "a list of texts"),
        ("wher = {}", "where"),
    ] {
        let error = refusal(&format!("{COMPLETE}{settings}"), &[]);
        assert!(error.contains(words), "{settings}: {error}");
    }
}

proptest::proptest! {
    #[test]
    fn no_text_whatever_makes_loading_panic(text in "\\PC{0,200}", value in "\\PC{0,40}") {
        let path = std::path::Path::new("relay.toml");
        let variable = ("CRM_RELAY__BUS__PARTITIONS".to_owned(), value);
        let _ = crm_relay::config::load_text(path, &text, [variable]);
        let _ = crm_relay::config::portal_of(path, &text);
    }

    #[test]
    fn a_file_with_a_slip_tells_no_secret(at in 0..COMPLETE.len(), slip in proptest::option::of("[ -~]")) {
        let slip = slip.unwrap_or_default();
        let text = format!("{}{slip}{}", &COMPLETE[..at], &COMPLETE[at + 1..]);
        // The slip may be in the secret itself.
        proptest::prop_assume!(text.matches(SECRET).count() == COMPLETE.matches(SECRET).count());
        let loaded = crm_relay::config::load_text(std::path::Path::new("relay.toml"), &text, []);
        let shown = match loaded {
            Ok(config) => format!("{config:?} {:?}", config.report(Role::Run)),
            Err(error) => format!("{error} {error:?}"),
        };
        proptest::prop_assert!(!shown.contains(SECRET), "{shown}");
    }
}
