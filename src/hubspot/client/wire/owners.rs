//! Owners: one page of them, and a single one.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Paging, after, id, parse, text};
use crate::event::{Owner, OwnerId, Team};
use crate::hubspot::call::{Answer, CallError};

/// `CollectionResponsePublicOwnerForwardPaging`.
#[derive(Deserialize)]
struct WirePage<'a> {
    #[serde(borrow)]
    results: Vec<WireOwner<'a>>,
    #[serde(borrow)]
    paging: Option<Paging<'a>>,
}

/// `PublicOwner`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireOwner<'a> {
    #[serde(borrow)]
    id: &'a RawValue,
    #[serde(borrow)]
    email: Option<&'a RawValue>,
    #[serde(borrow)]
    first_name: Option<&'a RawValue>,
    #[serde(borrow)]
    last_name: Option<&'a RawValue>,
    #[serde(borrow)]
    user_id: Option<&'a RawValue>,
    #[serde(borrow)]
    user_id_including_inactive: Option<&'a RawValue>,
    #[serde(borrow)]
    r#type: Option<&'a RawValue>,
    archived: Option<bool>,
    #[serde(borrow)]
    teams: Option<Vec<WireTeam<'a>>>,
}

/// `PublicTeam`.
#[derive(Deserialize)]
struct WireTeam<'a> {
    #[serde(borrow)]
    id: &'a RawValue,
    #[serde(borrow)]
    name: Option<&'a RawValue>,
    primary: Option<bool>,
}

/// One page of owners.
pub(super) fn page(body: &[u8]) -> Result<Answer, CallError> {
    let page: WirePage<'_> = parse(body)?;
    let owners = page.results.into_iter().map(read);
    Ok(Answer::Owners {
        owners: owners.collect::<Result<_, _>>()?,
        after: after(page.paging),
    })
}

/// A single owner.
pub(super) fn owner(body: &[u8]) -> Result<Answer, CallError> {
    let owner = parse(body).and_then(read)?;
    Ok(Answer::Owner(Some(owner)))
}

fn read(owner: WireOwner<'_>) -> Result<Owner, CallError> {
    let teams = owner.teams.unwrap_or_default().into_iter().map(team);
    Ok(Owner {
        id: OwnerId::from(id(owner.id, "an owner's id")?),
        email: text(owner.email),
        name: name(text(owner.first_name), text(owner.last_name)),
        // A deactivated user's id is kept in the second field alone.
        user_id: text(owner.user_id).or_else(|| text(owner.user_id_including_inactive)),
        r#type: text(owner.r#type),
        archived: owner.archived.unwrap_or(false),
        teams: teams.collect::<Result<_, _>>()?,
    })
}

fn team(team: WireTeam<'_>) -> Result<Team, CallError> {
    Ok(Team {
        id: id(team.id, "a team's id")?,
        name: text(team.name).unwrap_or_default(),
        primary: team.primary.unwrap_or(false),
    })
}

fn name(first: Option<String>, last: Option<String>) -> Option<String> {
    let both: Vec<String> = first.into_iter().chain(last).collect();
    let name = both.join(" ").trim().to_owned();
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERSON: &str = r#"{"id":"77","email":"zoe@example.com","type":"PERSON","firstName":"Zoe","lastName":"Quill","userId":991,"userIdIncludingInactive":991,"createdAt":"2026-01-02T03:04:05.678Z","updatedAt":"2026-01-02T03:04:06.000Z","archived":false,"teams":[{"id":"5","name":"Sales","primary":true},{"id":6,"name":"North"}]}"#;
    const DEACTIVATED: &str = r#"{"id":78,"email":"old@example.com","firstName":"","lastName":"Gone","userId":null,"userIdIncludingInactive":992,"type":"PERSON","archived":true}"#;
    const QUEUE: &str = r#"{"id":"79","type":"QUEUE","email":null,"userId":null,"firstName":null,"archived":false,"teams":null}"#;

    fn read_one(body: &str) -> Owner {
        match owner(body.as_bytes()).unwrap() {
            Answer::Owner(Some(owner)) => owner,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_person_has_a_joined_name_and_teams() {
        let owner = read_one(PERSON);
        assert_eq!(
            (owner.id.as_str(), owner.name.as_deref()),
            ("77", Some("Zoe Quill"))
        );
        assert_eq!(owner.user_id.as_deref(), Some("991"));
        assert_eq!(owner.email.as_deref(), Some("zoe@example.com"));
        let team = |id: &str, name: &str, primary| Team {
            id: id.into(),
            name: name.into(),
            primary,
        };
        assert_eq!(
            owner.teams,
            [team("5", "Sales", true), team("6", "North", false)]
        );
    }

    #[test]
    fn a_deactivated_user_keeps_its_id() {
        let owner = read_one(DEACTIVATED);
        assert!(owner.archived);
        assert_eq!(owner.user_id.as_deref(), Some("992"));
        assert_eq!(owner.name.as_deref(), Some("Gone"));
    }

    #[test]
    fn a_queue_has_neither_user_nor_name() {
        let owner = read_one(QUEUE);
        assert_eq!(owner.r#type.as_deref(), Some("QUEUE"));
        assert_eq!((owner.user_id, owner.name, owner.email), (None, None, None));
    }

    #[test]
    fn a_page_tells_the_next() {
        let body =
            format!(r#"{{"results":[{PERSON},{QUEUE}],"paging":{{"next":{{"after":"NzA%3D"}}}}}}"#);
        let Answer::Owners { owners, after } = page(body.as_bytes()).unwrap() else {
            panic!("owners were sent")
        };
        assert_eq!((owners.len(), after.as_deref()), (2, Some("NzA%3D")));
        let Answer::Owners { after, .. } = page(br#"{"results":[],"paging":null}"#).unwrap() else {
            panic!("owners were sent")
        };
        assert_eq!(after, None);
    }

    #[test]
    fn an_owner_without_an_id_is_unreadable() {
        for body in [r#"{"id":null}"#, "{}", "[]", "<html>"] {
            let error = owner(body.as_bytes()).unwrap_err();
            assert!(matches!(error, CallError::Unreadable { .. }), "{body}");
        }
    }
}
