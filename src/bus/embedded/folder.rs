//! The folder the store lives in: made private, and locked so that one process has it.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::error::EmbeddedError;

/// The database in the folder. SQLite gives `-wal` and `-shm` beside it the same permissions.
const DATABASE_FILE: &str = "bus.sqlite3";
/// The file whose lock stands for the folder. Not the database: closing a second handle of that would
/// drop SQLite's own locks.
const LOCK_FILE: &str = "lock";
/// What we make is for this user alone: it holds people's data.
const FOLDER_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// A folder that this process alone has, until it is dropped.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    _lock: File,
}

impl Folder {
    /// Makes the folder where it is missing, and locks it. The permissions of an existing one are left alone.
    ///
    /// # Errors
    /// [`EmbeddedError::InUse`] and [`EmbeddedError::Io`].
    pub(super) fn open(path: &Path) -> Result<Self, EmbeddedError> {
        make_folder(path).map_err(io_error(path))?;
        let lock_path = path.join(LOCK_FILE);
        let lock = private_file(&lock_path).map_err(io_error(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(EmbeddedError::InUse {
                    data_dir: path.to_owned(),
                });
            }
            Err(TryLockError::Error(source)) => return Err(io_error(&lock_path)(source)),
        }
        Ok(Self {
            path: path.to_owned(),
            _lock: lock,
        })
    }

    /// The database's path; the file exists, perhaps empty, and its name outlives a crash.
    ///
    /// # Errors
    /// [`EmbeddedError::Io`].
    pub(super) fn database(&self) -> Result<PathBuf, EmbeddedError> {
        let database = self.path.join(DATABASE_FILE);
        private_file(&database).map_err(io_error(&database))?;
        sync_folder(&self.path).map_err(io_error(&self.path))?;
        Ok(database)
    }
}

fn make_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(FOLDER_MODE)
        .create(path)?;
    match path.canonicalize()?.parent() {
        // A parent that this user may not read was not made by us, and holds the name already.
        Some(parent) => sync_folder(parent).or_else(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => Ok(()),
            _ => Err(error),
        }),
        None => Ok(()),
    }
}

fn private_file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(FILE_MODE)
        .open(path)
}

fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> EmbeddedError {
    let path = path.to_owned();
    move |source| EmbeddedError::Io { path, source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn what_is_made_is_for_this_user_alone() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("a/b");
        let database = Folder::open(&path).unwrap().database().unwrap();
        assert_eq!((mode(&path), mode(&database)), (0o700, 0o600));
    }

    #[test]
    fn a_second_one_is_refused_until_the_first_is_gone() {
        let temp = tempfile::tempdir().unwrap();
        let first = Folder::open(temp.path()).unwrap();
        let error = Folder::open(temp.path()).unwrap_err();
        assert!(error.to_string().contains("bus.data_dir"), "{error}");
        assert!(matches!(error, EmbeddedError::InUse { .. }));
        drop(first);
        Folder::open(temp.path()).unwrap();
    }
}
