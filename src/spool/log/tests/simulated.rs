//! A disk in memory. It keeps what was synced; of the rest a crash leaves what chance will have.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

use crate::spool::disk::{Disk, Sink};

/// How the disk fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// One operation fails, halfway.
    Once,
    /// One operation fails, halfway, and then all.
    Crash,
}

/// Chance with a seed.
#[derive(Debug)]
pub struct Random(ChaCha8Rng);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    /// A number below `end`; 0 when that is 0.
    pub fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end.max(1)).unwrap();
        usize::try_from(self.0.next_u64() % end).unwrap()
    }

    fn tosses(&mut self) -> bool {
        self.below(2) == 0
    }
}

#[derive(Clone, Debug, Default)]
struct Content {
    written: Vec<u8>,
    /// How much of it outlives a crash for certain.
    synced: usize,
}

type Files = BTreeMap<String, Rc<RefCell<Content>>>;

#[derive(Debug)]
struct State {
    files: Files,
    /// The names as they were synced.
    names_synced: Files,
    random: Random,
    fault: Option<(usize, Fault)>,
    crashed: bool,
}

/// Clones are the same disk.
#[derive(Clone, Debug)]
pub struct SimulatedDisk(Rc<RefCell<State>>);

/// A file of it.
#[derive(Debug)]
pub struct SimulatedFile {
    disk: SimulatedDisk,
    content: Rc<RefCell<Content>>,
}

impl SimulatedDisk {
    pub fn new(seed: u64) -> Self {
        Self(Rc::new(RefCell::new(State {
            files: Files::new(),
            names_synced: Files::new(),
            random: Random::new(seed),
            fault: None,
            crashed: false,
        })))
    }

    /// After `operations` more, one fails.
    pub fn fail_after(&self, operations: usize, fault: Fault) {
        self.0.borrow_mut().fault = Some((operations, fault));
    }

    pub fn has_crashed(&self) -> bool {
        self.0.borrow().crashed
    }

    /// The size of all files.
    pub fn bytes(&self) -> u64 {
        let state = self.0.borrow();
        let sizes = state.files.values().map(|file| file.borrow().written.len());
        sizes.sum::<usize>() as u64
    }

    /// Works again, after the program alone was gone or after the power was.
    pub fn restart(&self, power_lost: bool) {
        let mut state = self.0.borrow_mut();
        state.fault = None;
        state.crashed = false;
        if power_lost {
            state.lose_power();
        }
    }

    /// Whether the next operation fails.
    fn fails(&self) -> bool {
        let mut state = self.0.borrow_mut();
        if state.crashed {
            return true;
        }
        match state.fault.take() {
            Some((0, fault)) => {
                state.crashed = fault == Fault::Crash;
                true
            }
            Some((left, fault)) => {
                state.fault = Some((left - 1, fault));
                false
            }
            None => false,
        }
    }

    /// Fails, having done it or not, or succeeds.
    fn try_to(&self, act: impl FnOnce(&mut State)) -> io::Result<()> {
        let fails = self.fails();
        let mut state = self.0.borrow_mut();
        if !fails || state.random.tosses() {
            act(&mut state);
        }
        if fails { Err(failure()) } else { Ok(()) }
    }
}

impl State {
    /// A name that was made or removed since the last sync is there or not; a file's end that was not
    /// synced is there, cut off, or ends in what the disk held before.
    fn lose_power(&mut self) {
        let names: Vec<String> = self
            .files
            .keys()
            .chain(self.names_synced.keys())
            .cloned()
            .collect();
        let mut left = Files::new();
        for name in names {
            let (now, synced) = (self.files.get(&name), self.names_synced.get(&name));
            let file = match (now, synced) {
                (Some(file), Some(_)) => Some(file),
                (one, other) if self.random.tosses() => one.or(other),
                _ => None,
            };
            if let Some(file) = file {
                left.insert(name, Rc::clone(file));
            }
        }
        for file in left.values() {
            let mut content = file.borrow_mut();
            let unsynced = content.written.len() - content.synced;
            let kept = content.synced + self.random.below(unsynced + 1);
            let stale = kept + self.random.below(content.written.len() - kept + 1);
            content.written.truncate(stale);
            content.written[kept..].fill(0);
            content.synced = stale;
        }
        self.names_synced = left.clone();
        self.files = left;
    }
}

impl Disk for SimulatedDisk {
    type File = SimulatedFile;

    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let state = self.0.borrow();
        let files = state.files.iter();
        let sized = files.map(|(name, file)| (name.clone(), file.borrow().written.len() as u64));
        Ok(sized.collect())
    }

    fn create(&mut self, name: &str) -> io::Result<SimulatedFile> {
        let content = Rc::<RefCell<Content>>::default();
        self.try_to(|state| {
            state.files.insert(name.to_owned(), Rc::clone(&content));
        })?;
        Ok(SimulatedFile {
            disk: self.clone(),
            content,
        })
    }

    fn sync_names(&mut self) -> io::Result<()> {
        self.try_to(|state| state.names_synced = state.files.clone())
    }

    fn sync_file(&mut self, name: &str) -> io::Result<()> {
        self.try_to(|state| {
            let mut content = state.files[name].borrow_mut();
            content.synced = content.written.len();
        })
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        if self.fails() {
            return Err(failure());
        }
        match self.0.borrow().files.get(name) {
            Some(file) => Ok(file.borrow().written.clone()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.try_to(|state| {
            if let Some(file) = state.files.remove(from) {
                state.files.insert(to.to_owned(), file);
            }
        })
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.try_to(|state| drop(state.files.remove(name)))
    }
}

impl Sink for SimulatedFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let fails = self.disk.fails();
        let part = match fails {
            true => self.disk.0.borrow_mut().random.below(bytes.len() + 1),
            false => bytes.len(),
        };
        self.content.borrow_mut().written.extend(&bytes[..part]);
        if fails { Err(failure()) } else { Ok(()) }
    }

    fn sync(&mut self) -> io::Result<()> {
        let content = Rc::clone(&self.content);
        self.disk.try_to(|_| {
            let mut content = content.borrow_mut();
            content.synced = content.written.len();
        })
    }
}

fn failure() -> io::Error {
    io::Error::other("the simulated disk fails")
}
