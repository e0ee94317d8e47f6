//! `crm-relay portals`: the portals of `portals.folder`. It works on the files; a relay that runs follows within seconds.
//!
//! A token is read from a variable or from stdin, never from the command line, which others can see.

use std::io::{self, IsTerminal as _, Read as _, Write as _};

use anyhow::{Context as _, bail, ensure};
use clap::{Args, Subcommand};
use secrecy::{ExposeSecret as _, SecretString};

use super::ConfigArgs;
use crate::config::{Config, PortalConfig, Secret, is_portal_id};
use crate::event::PortalId;
use crate::portals::{self, Apps, Folder, SealingKeys, settings_of};

/// The longest token that is read.
const TOKEN_BYTES_MAX: u64 = 16 << 10;

/// The arguments of `crm-relay portals`.
#[derive(Debug, Args)]
pub(super) struct PortalsCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Prints a new key for portals.keys.
    Key,
    /// Lists the portals: id, kind of token, app, state.
    List(ConfigArgs),
    /// Adds a portal, or replaces all that is written of it.
    Put(Put),
    /// Makes no more calls for a portal; its events are kept.
    Pause(One),
    /// Ends a pause.
    Resume(One),
    /// Removes a portal; what waits for it becomes dead letters.
    Remove(One),
    /// Seals every token that stands as plain text, or is sealed by a key that is not the first.
    Seal(ConfigArgs),
}

#[derive(Debug, Args)]
struct One {
    #[command(flatten)]
    config: ConfigArgs,
    /// The portal's id.
    #[arg(value_parser = portal_id)]
    portal: PortalId,
}

#[derive(Debug, Args)]
struct Put {
    #[command(flatten)]
    one: One,
    /// What the token is.
    #[arg(long, value_enum)]
    token: Kind,
    /// The app of a refresh token; left out, the only one with a client id.
    #[arg(long)]
    app: Option<String>,
    /// The portal is paused at first.
    #[arg(long)]
    paused: bool,
    /// Reads the token from this environment variable instead of stdin.
    #[arg(long, value_name = "NAME")]
    env: Option<String>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Kind {
    /// A private app's access token, or a service key.
    Access,
    /// An OAuth app's refresh token.
    Refresh,
}

impl PortalsCommand {
    /// Does what is asked.
    pub(super) fn execute(self) -> anyhow::Result<()> {
        match self.action {
            Action::Key => {
                let key = SealingKeys::new_key();
                writeln!(io::stdout().lock(), "{}", key.expose_secret())?;
                Ok(())
            }
            Action::List(args) => {
                let config = args.load()?;
                list(&config, &folder_of(&config)?, &mut io::stdout().lock())
            }
            Action::Put(put) => put.execute(),
            Action::Pause(one) => one.set_paused(true),
            Action::Resume(one) => one.set_paused(false),
            Action::Remove(one) => {
                let config = one.config.load()?;
                let removed = folder_of(&config)?.remove(&one.portal)?;
                ensure!(removed, "there is no portal {}", one.portal);
                Ok(())
            }
            Action::Seal(args) => seal(&folder_of(&args.load()?)?),
        }
    }
}

impl One {
    fn set_paused(&self, paused: bool) -> anyhow::Result<()> {
        let folder = folder_of(&self.config.load()?)?;
        Ok(portals::pause(&folder, &self.portal, paused)?)
    }
}

impl Put {
    fn execute(self) -> anyhow::Result<()> {
        let config = self.one.config.load()?;
        let (id, folder) = (&self.one.portal, folder_of(&config)?);
        ensure!(
            !config.portal.contains_key(id.as_str()),
            "portal {id} stands in the configuration file, which alone changes it"
        );
        let token = match &self.env {
            Some(name) => Secret::new(format!("env:{name}")).resolve()?,
            None => from_stdin()?,
        };
        let token = Some(Secret::new(token.expose_secret()));
        let (access_token, refresh_token) = match self.token {
            Kind::Access => (token, None),
            Kind::Refresh => (None, token),
        };
        let portal = PortalConfig {
            access_token,
            refresh_token,
            app: self.app,
            paused: self.paused,
        };
        portals::check(id, &portal, &Apps::new(&config.app), &folder)?;
        Ok(folder.write(id, &portal)?)
    }
}

fn folder_of(config: &Config) -> anyhow::Result<Folder> {
    let path = config.portals.folder.clone();
    let path = path.context("portals.folder is not set; write the folder that portals stand in")?;
    let keys = SealingKeys::resolve(&config.portals.keys).context("portals.keys")?;
    Ok(Folder::new(path, keys))
}

fn list(config: &Config, folder: &Folder, out: &mut impl io::Write) -> anyhow::Result<()> {
    let apps = Apps::new(&config.app);
    let mut ids: Vec<PortalId> = folder
        .list()?
        .portals
        .into_iter()
        .map(|(id, _)| id)
        .collect();
    ids.sort();
    for id in ids {
        let (kind, app, state) = match folder.read(&id) {
            Ok(None) => continue,
            Err(error) => ("-", None, format!("unreadable: {error}")),
            Ok(Some(portal)) => {
                let kind = match portal.refresh_token {
                    Some(_) => "refresh_token",
                    None => "access_token",
                };
                let state = state_of(&id, &portal, &apps, folder);
                (kind, portal.app, state)
            }
        };
        let app = app.as_deref().unwrap_or("-");
        writeln!(out, "{id}\t{kind}\t{app}\t{state}")?;
    }
    Ok(())
}

fn state_of(id: &PortalId, portal: &PortalConfig, apps: &Apps, folder: &Folder) -> String {
    if let Err(error) = settings_of(id.as_str(), portal, apps, folder.keys(), None) {
        return format!("unusable: {}", error.told());
    }
    let state = if portal.paused { "paused" } else { "active" };
    if folder.is_sealed(id, portal) {
        state.to_owned()
    } else {
        format!("{state}, to be sealed")
    }
}

/// One file that cannot be sealed keeps none of the others from it.
fn seal(folder: &Folder) -> anyhow::Result<()> {
    let (mut sealed, mut failed) = (0, 0);
    for (id, _) in folder.list()?.portals {
        match seal_one(folder, &id) {
            Ok(true) => sealed += 1,
            Ok(false) => {}
            Err(error) => {
                failed += 1;
                writeln!(io::stderr().lock(), "portal {id}: {error:#}")?;
            }
        }
    }
    writeln!(io::stdout().lock(), "{sealed} sealed")?;
    if failed > 0 {
        bail!("{failed} could not be sealed");
    }
    Ok(())
}

fn seal_one(folder: &Folder, id: &PortalId) -> anyhow::Result<bool> {
    let mut outcome = Ok(false);
    folder.change(id, |portal| {
        if folder.is_sealed(id, portal) {
            return false;
        }
        outcome = folder.unsealed(id, portal).map(|plain| {
            *portal = plain;
            true
        });
        matches!(outcome, Ok(true))
    })?;
    Ok(outcome?)
}

fn from_stdin() -> anyhow::Result<SecretString> {
    let stdin = io::stdin();
    if stdin.is_terminal() {
        writeln!(io::stderr().lock(), "the token, then Enter and Ctrl-D:")?;
    }
    let mut text = String::new();
    stdin
        .lock()
        .take(TOKEN_BYTES_MAX)
        .read_to_string(&mut text)
        .context("the token cannot be read from stdin")?;
    Ok(text.trim().to_owned().into())
}

fn portal_id(text: &str) -> Result<PortalId, String> {
    if is_portal_id(text) {
        Ok(PortalId::from(text))
    } else {
        Err("a portal's id has digits only, and no leading 0".to_owned())
    }
}
