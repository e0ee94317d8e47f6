//! What the spool asks of a file system, so little that a test can put a simulated one in its place.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;

use crate::folder::{Folder, private_file};

/// A folder. Nothing outlives a crash for certain before it is synced.
pub(super) trait Disk {
    /// A file that is written.
    type File: Sink;

    /// Names and sizes of all files.
    fn list(&self) -> io::Result<Vec<(String, u64)>>;
    /// Makes an empty file.
    fn create(&mut self, name: &str) -> io::Result<Self::File>;
    /// Makes outlive a crash which files there are.
    fn sync_names(&mut self) -> io::Result<()>;
    /// Makes all of a file outlive a crash, whoever has written it.
    fn sync_file(&mut self, name: &str) -> io::Result<()>;
    /// A file's content.
    fn read(&self, name: &str) -> io::Result<Vec<u8>>;
    /// Gives a file another name.
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&mut self, name: &str) -> io::Result<()>;
}

/// A file that is written, from front to end.
pub(super) trait Sink {
    /// Adds to its end. After an error some of it may be there.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Makes all of it outlive a crash.
    fn sync(&mut self) -> io::Result<()>;
}

impl Disk for Folder {
    type File = File;

    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let files = fs::read_dir(self.path())?;
        files
            .map(|file| {
                let file = file?;
                let name = file.file_name().to_string_lossy().into_owned();
                Ok((name, file.metadata()?.len()))
            })
            .collect()
    }

    fn create(&mut self, name: &str) -> io::Result<File> {
        private_file(&self.path().join(name))
    }

    fn sync_names(&mut self) -> io::Result<()> {
        self.sync()
    }

    fn sync_file(&mut self, name: &str) -> io::Result<()> {
        File::open(self.path().join(name))?.sync_all()
    }

    /// What the disk does not give back is zeros, so that the rest can be read.
    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let path = self.path().join(name);
        match fs::read(&path) {
            Ok(bytes) => Ok(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(error),
            Err(error) => {
                tracing::error!(file = name, %error, "a file of the spool cannot be read as a whole");
                let file = File::open(&path)?;
                let length = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
                Ok(read_around(length, |place, block| {
                    file.read_exact_at(block, place as u64)
                }))
            }
        }
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path().join(from), self.path().join(to))
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path().join(name))
    }
}

impl Sink for File {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}

/// `length` bytes, read in blocks; those that cannot be read are zeros.
fn read_around(length: usize, read: impl Fn(usize, &mut [u8]) -> io::Result<()>) -> Vec<u8> {
    const BLOCK_BYTES: usize = 4_096;
    let mut bytes = vec![0; length];
    for (index, block) in bytes.chunks_mut(BLOCK_BYTES).enumerate() {
        if read(index * BLOCK_BYTES, block).is_err() {
            block.fill(0);
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_that_cannot_be_read_costs_itself_alone() {
        let bytes = read_around(10_000, |place, block| {
            block.fill(1);
            match place {
                4_096 => Err(io::Error::other("a bad sector")),
                _ => Ok(()),
            }
        });
        let lost: Vec<_> = (0..10_000).filter(|place| bytes[*place] == 0).collect();
        assert_eq!(lost, (4_096..8_192).collect::<Vec<_>>());
    }

    #[test]
    fn a_folder_keeps_what_is_written_and_forgets_what_is_removed() {
        let temp = tempfile::tempdir().unwrap();
        let mut folder = Folder::open(temp.path(), "spool.folder").unwrap();
        let mut file = folder.create("a").unwrap();
        file.append(b"one").unwrap();
        file.append(b"two").unwrap();
        file.sync().unwrap();
        folder.rename("a", "b").unwrap();
        folder.sync_names().unwrap();
        assert_eq!(folder.read("b").unwrap(), b"onetwo");
        assert!(folder.list().unwrap().contains(&("b".to_owned(), 6)));
        folder.remove("b").unwrap();
        let gone = folder.read("b").unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::NotFound);
    }
}
