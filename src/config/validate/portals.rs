//! Rules on portals: their tokens, the folder they may stand in, and the API that changes them.

use secrecy::ExposeSecret as _;

use super::{Problem, Role, Rule, problem_if};
use crate::config::{AppConfig, Config, is_portal_id};
use crate::portals::{Apps, SealingKeys, settings_of};

/// A token that is shorter can be guessed.
const ADMIN_TOKEN_CHARS_MIN: usize = 16;

pub(super) const RULES: &[Rule] = &[
    portal_ids_are_digits,
    client_ids_are_not_empty,
    sealing_keys_are_keys,
    a_folder_has_keys,
    the_folder_is_there,
    portals_make_sense,
    the_admin_token_is_one,
];

pub(super) const ADVICE: &[Rule] = &[a_worker_has_portals];

fn portal_ids_are_digits(config: &Config, _: Role) -> Vec<Problem> {
    let wrong = config.portal.keys().filter(|id| !is_portal_id(id));
    wrong
        .map(|id| {
            Problem::new(
                format!("portal.{id}"),
                "a portal's id has digits only, such as 8241, and no leading 0",
            )
        })
        .collect()
}

fn client_ids_are_not_empty(config: &Config, _: Role) -> Vec<Problem> {
    let is_empty = |app: &AppConfig| {
        app.client_id
            .as_deref()
            .is_some_and(|id| id.trim().is_empty())
    };
    let empty = config.app.iter().filter(|(_, app)| is_empty(app));
    empty
        .map(|(name, _)| {
            let key = format!("app.{name}.client_id");
            Problem::new(
                key,
                "it is empty; write the id that the app's settings show",
            )
        })
        .collect()
}

fn sealing_keys_are_keys(config: &Config, role: Role) -> Vec<Problem> {
    let keys = config.portals.keys.iter().enumerate();
    let keys = keys.filter(|_| role.works());
    keys.filter_map(|(index, key)| {
        let error = SealingKeys::resolve(std::slice::from_ref(key)).err()?;
        Some(Problem::new(
            format!("portals.keys[{index}]"),
            error.to_string(),
        ))
    })
    .collect()
}

fn a_folder_has_keys(config: &Config, role: Role) -> Vec<Problem> {
    problem_if(
        role.works() && config.portals.folder.is_some() && config.portals.keys.is_empty(),
        "portals.keys",
        "it is missing, and what is written to portals.folder must be sealed; `crm-relay portals key` prints a key, which is best given as env:NAME or file:PATH",
    )
}

fn the_folder_is_there(config: &Config, role: Role) -> Vec<Problem> {
    let folder = config.portals.folder.as_ref().filter(|_| role.works());
    folder
        .and_then(|folder| std::fs::read_dir(folder).err())
        .map(|error| {
            let message = format!("the folder cannot be read ({error}); make it, or name another");
            Problem::new("portals.folder", message)
        })
        .into_iter()
        .collect()
}

fn portals_make_sense(config: &Config, role: Role) -> Vec<Problem> {
    let apps = Apps::new(&config.app);
    // What is wrong with the keys is told by itself.
    let keys = SealingKeys::resolve(&config.portals.keys).unwrap_or_else(|_| SealingKeys::none());
    let portals = config.portal.iter().filter(|_| role.works());
    portals
        .filter_map(|(id, portal)| {
            let error = settings_of(id, portal, &apps, &keys, None).err()?;
            let key = match error.key() {
                Some(key) => format!("portal.{id}.{key}"),
                None => format!("portal.{id}"),
            };
            Some(Problem::new(key, error.to_string()))
        })
        .collect()
}

fn the_admin_token_is_one(config: &Config, _: Role) -> Vec<Problem> {
    let Some(token) = &config.admin.token else {
        return Vec::new();
    };
    match token.resolve() {
        Ok(token) => problem_if(
            token.expose_secret().chars().count() < ADMIN_TOKEN_CHARS_MIN,
            "admin.token",
            "it is so short that it can be guessed; write one of 16 characters or more",
        ),
        Err(error) => vec![Problem::new("admin.token", error.to_string())],
    }
}

fn a_worker_has_portals(config: &Config, role: Role) -> Vec<Problem> {
    problem_if(
        role.works() && config.portal.is_empty() && config.portals.folder.is_none(),
        "portal",
        "there is none, so nothing can be read from HubSpot; write a table [portal.ID] with an access_token, or portals.folder",
    )
}
