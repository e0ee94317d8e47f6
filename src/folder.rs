//! A folder for people's data: made private, and locked so that one process has it. The embedded bus keeps its
//! store in one, the spool its files.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// The file whose lock stands for the folder. Not a database in it: closing a second handle of that would
/// drop SQLite's own locks.
const LOCK_FILE: &str = "lock";
/// What we make is for this user alone: it holds people's data.
const FOLDER_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// Why a folder cannot be had. Each names the setting to look at.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// Another process has it.
    #[error(
        "{key} {path:?} is in use by another process; stop that one, or give this one a folder of its own"
    )]
    InUse {
        /// The setting.
        key: &'static str,
        /// The folder.
        path: PathBuf,
    },
    /// The folder or a file in it cannot be made, opened or locked.
    #[error(
        "{key}: cannot open {path:?}: {source}; it must be on a local disk and writable by this user"
    )]
    Io {
        /// The setting.
        key: &'static str,
        /// The folder or file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

/// A folder that this process alone has, until it is dropped.
#[derive(Debug)]
pub(crate) struct Folder {
    key: &'static str,
    path: PathBuf,
    _lock: File,
}

impl Folder {
    /// Makes the folder that the setting `key` names where it is missing, and locks it. The permissions of an
    /// existing one are left alone.
    ///
    /// # Errors
    /// Every variant of [`FolderError`].
    pub(crate) fn open(path: &Path, key: &'static str) -> Result<Self, FolderError> {
        let failed = |at: &Path| io_error(key, at);
        make_folder(path).map_err(failed(path))?;
        let lock_path = path.join(LOCK_FILE);
        let lock = private_file(&lock_path).map_err(failed(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let path = path.to_owned();
                return Err(FolderError::InUse { key, path });
            }
            Err(TryLockError::Error(source)) => return Err(failed(&lock_path)(source)),
        }
        Ok(Self {
            key,
            path: path.to_owned(),
            _lock: lock,
        })
    }

    /// The path of the file `name` in it; the file exists, perhaps empty, and its name outlives a crash.
    ///
    /// # Errors
    /// [`FolderError::Io`].
    pub(crate) fn file(&self, name: &str) -> Result<PathBuf, FolderError> {
        let path = self.path.join(name);
        private_file(&path).map_err(io_error(self.key, &path))?;
        self.sync().map_err(io_error(self.key, &self.path))?;
        Ok(path)
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the names of its files outlive a crash.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn sync(&self) -> io::Result<()> {
        sync_folder(&self.path)
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

/// Opens a file for reading and writing, made for this user alone where it is missing.
pub(crate) fn private_file(path: &Path) -> io::Result<File> {
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

fn io_error(key: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FolderError + use<> {
    let path = path.to_owned();
    move |source| FolderError::Io { key, path, source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const KEY: &str = "bus.data_dir";

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn what_is_made_is_for_this_user_alone() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("a/b");
        let folder = Folder::open(&path, KEY).unwrap();
        let database = folder.file("data").unwrap();
        assert_eq!((mode(&path), mode(&database)), (0o700, 0o600));
    }

    #[test]
    fn a_second_one_is_refused_until_the_first_is_gone() {
        let temp = tempfile::tempdir().unwrap();
        let first = Folder::open(temp.path(), KEY).unwrap();
        let error = Folder::open(temp.path(), KEY).unwrap_err();
        assert!(error.to_string().contains(KEY), "{error}");
        assert!(matches!(error, FolderError::InUse { .. }));
        drop(first);
        Folder::open(temp.path(), KEY).unwrap();
    }
}
