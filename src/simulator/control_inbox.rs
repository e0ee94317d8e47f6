//! A third part of [`Control`]: threads of the conversations inbox, and files.

use super::control::{Control, ControlError};
use super::files::File;
use super::inbox::{ThreadChange, ThreadFact};
use crate::event::Millis;

impl Control {
    /// Adds a file, with an `access` of HubSpot's such as `PRIVATE`; its id.
    ///
    /// # Errors
    /// [`ControlError::NoPortal`].
    pub fn add_file(
        &self,
        portal: u64,
        (name, extension): (&str, &str),
        access: &str,
        size: u64,
    ) -> Result<u64, ControlError> {
        let file = File {
            name: name.to_owned(),
            extension: extension.to_owned(),
            access: access.to_owned(),
            size,
            created_at: Millis::now(),
        };
        Ok(self.portal(portal)?.lock().state.files.add(file))
    }

    /// Begins a thread with a contact, and perhaps a ticket; its id.
    ///
    /// # Errors
    /// [`ControlError::NoPortal`].
    pub fn begin_thread(
        &self,
        portal: u64,
        contact: Option<u64>,
        ticket: Option<u64>,
    ) -> Result<u64, ControlError> {
        let held = self.portal(portal)?;
        let begun = self.shared.talk(held, |state, now| {
            let thread = state.inbox.begin(contact, ticket, now);
            Some((thread, ThreadFact::Creation))
        });
        Ok(begun.map_or(0, |(thread, _)| thread))
    }

    /// The contact writes a message; its id.
    ///
    /// # Errors
    /// [`ControlError`], also for a thread that is not there.
    pub fn say(&self, portal: u64, thread: u64, text: &str) -> Result<String, ControlError> {
        let text = text.to_owned();
        match self.change_thread(portal, thread, ThreadChange::Say { text })? {
            ThreadFact::NewMessage { id } => Ok(id),
            other => Err(ControlError::Refused(format!("{other:?}"))),
        }
    }

    /// Closes a thread.
    ///
    /// # Errors
    /// [`ControlError`], also for a thread that is not there.
    pub fn close_thread(&self, portal: u64, thread: u64) -> Result<(), ControlError> {
        self.change_thread(portal, thread, ThreadChange::Close)
            .map(|_| ())
    }

    /// Assigns a thread to an actor, `A-75500001` for a user.
    ///
    /// # Errors
    /// [`ControlError`], also for a thread that is not there.
    pub fn assign_thread(&self, portal: u64, thread: u64, actor: &str) -> Result<(), ControlError> {
        let actor = actor.to_owned();
        self.change_thread(portal, thread, ThreadChange::Assign { actor })
            .map(|_| ())
    }

    /// Archives a thread.
    ///
    /// # Errors
    /// [`ControlError`], also for a thread that is not there.
    pub fn archive_thread(&self, portal: u64, thread: u64) -> Result<(), ControlError> {
        self.change_thread(portal, thread, ThreadChange::Archive)
            .map(|_| ())
    }

    /// Deletes a thread for good.
    ///
    /// # Errors
    /// [`ControlError`], also for a thread that is not there.
    pub fn erase_thread(&self, portal: u64, thread: u64) -> Result<(), ControlError> {
        self.change_thread(portal, thread, ThreadChange::Erase)
            .map(|_| ())
    }

    fn change_thread(
        &self,
        portal: u64,
        thread: u64,
        change: ThreadChange,
    ) -> Result<ThreadFact, ControlError> {
        let held = self.portal(portal)?;
        let changed = self.shared.talk(held, |state, now| {
            Some((thread, state.inbox.change(thread, change, now)?))
        });
        let changed = changed.map(|(_, fact)| fact);
        changed.ok_or_else(|| ControlError::Refused(format!("no thread {thread}")))
    }
}
