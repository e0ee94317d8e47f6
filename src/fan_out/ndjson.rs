//! A destination that is a file of JSON lines, or stdout.
//!
//! Each has a thread of its own, so that a pipe nobody reads from holds up neither the async threads nor another
//! destination. What waits is written together and synced once.
//!
//! A line is whole or it is no JSON: after a crash or a failed write the next write begins with a line break, and the
//! event of the broken line comes again, whole. A file that was renamed or deleted (rotation) is made anew at
//! the next write.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

/// The path that means stdout.
const STDOUT: &str = "-";
/// A file we make is for this user alone: it holds people's data. An existing one keeps its permissions.
const FILE_MODE: u32 = 0o600;
/// Writes that wait for the thread, and at most as many served by one sync.
const WRITES_MAX: usize = 64;
/// How long a write may take before it counts as failed. If it is not begun by then, it is not made.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// The async side.
#[derive(Debug)]
pub(super) struct Ndjson {
    writes: mpsc::Sender<Write>,
}

/// Bodies, each to become a line.
#[derive(Debug)]
struct Write {
    bodies: Vec<Bytes>,
    done: oneshot::Sender<io::Result<()>>,
}

impl Ndjson {
    /// Opens `path` for appending, or stdout for `-`, and starts the thread.
    ///
    /// # Errors
    /// The file cannot be opened, read or written, or there is no thread to be had.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let sink = if path == Path::new(STDOUT) {
            Sink::Stdout
        } else {
            Sink::File(LineFile::open(path)?)
        };
        let (writes, received) = mpsc::channel(WRITES_MAX);
        std::thread::Builder::new()
            .name("ndjson".to_owned())
            .spawn(move || serve(sink, received))?;
        Ok(Self { writes })
    }

    /// Appends every body as a line; resolves when they are on disk (or, for stdout, handed over).
    ///
    /// # Errors
    /// The system's, or that it took longer than [`WRITE_TIMEOUT`]. Some of the lines may be there.
    pub(super) async fn write(&self, bodies: Vec<Bytes>) -> io::Result<()> {
        let (done, written) = oneshot::channel();
        let write = async {
            let gone = || io::Error::other("the writing thread is gone");
            let sent = self.writes.send(Write { bodies, done }).await;
            sent.map_err(|_| gone())?;
            written.await.map_err(|_| gone())?
        };
        tokio::time::timeout(WRITE_TIMEOUT, write)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

enum Sink {
    Stdout,
    File(LineFile),
}

impl Sink {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(bytes)?;
                stdout.flush()
            }
            Self::File(file) => file.append(bytes),
        }
    }
}

/// Writes until all senders are gone.
fn serve(mut sink: Sink, mut writes: mpsc::Receiver<Write>) {
    let mut torn = false;
    while let Some(first) = writes.blocking_recv() {
        let mut round = vec![first];
        while round.len() < WRITES_MAX
            && let Ok(next) = writes.try_recv()
        {
            round.push(next);
        }
        // Who gave up waiting writes again, so this would be a second copy.
        round.retain(|write| !write.done.is_closed());
        if round.is_empty() {
            continue;
        }
        let result = sink.append(&lines(&round, torn));
        torn = result.is_err();
        for write in round {
            let _ = write.done.send(copy_of(&result));
        }
    }
}

fn lines(round: &[Write], torn: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    if torn {
        bytes.push(b'\n');
    }
    for body in round.iter().flat_map(|write| &write.bodies) {
        bytes.extend_from_slice(body);
        bytes.push(b'\n');
    }
    bytes
}

fn copy_of(result: &io::Result<()>) -> io::Result<()> {
    match result {
        Ok(()) => Ok(()),
        Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
    }
}

/// A file that lines are appended to.
struct LineFile {
    path: PathBuf,
    file: File,
}

impl LineFile {
    fn open(path: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(FILE_MODE)
            .open(path)?;
        heal(&mut file)?;
        sync_name(path, &file)?;
        Ok(Self {
            path: path.to_owned(),
            file,
        })
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.was_rotated()? {
            *self = Self::open(&self.path)?;
        }
        self.file.write_all(bytes)?;
        if self.file.metadata()?.is_file() {
            self.file.sync_data()?;
        }
        Ok(())
    }

    fn was_rotated(&self) -> io::Result<bool> {
        let id = |metadata: &Metadata| (metadata.dev(), metadata.ino());
        match self.path.metadata() {
            Ok(there) => Ok(id(&there) != id(&self.file.metadata()?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
            Err(error) => Err(error),
        }
    }
}

/// Makes the file's name as durable as its lines. A folder that this user may not read is left to the system.
fn sync_name(path: &Path, file: &File) -> io::Result<()> {
    if !file.metadata()?.is_file() {
        return Ok(());
    }
    let folder = path.canonicalize()?;
    let folder = folder.parent().expect("a file lies in a folder");
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.or_else(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => Ok(()),
        _ => Err(error),
    })
}

/// Ends a last line that was cut off. Pipes and devices have none.
fn heal(file: &mut File) -> io::Result<()> {
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() == 0 {
        return Ok(());
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    if last != *b"\n" {
        file.write_all(b"\n")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn write(ndjson: &Ndjson, body: &'static str) -> io::Result<()> {
        ndjson.write(vec![Bytes::from(body)]).await
    }

    #[tokio::test]
    async fn a_line_cut_off_by_a_crash_is_ended_at_open() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("out.ndjson");
        std::fs::write(&path, "{\"a\":1}\n{\"b").unwrap();
        let ndjson = Ndjson::open(&path).unwrap();
        write(&ndjson, "{}").await.unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "{\"a\":1}\n{\"b\n{}\n");
    }

    #[tokio::test]
    async fn a_rotated_file_is_made_anew() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("out.ndjson");
        let ndjson = Ndjson::open(&path).unwrap();
        write(&ndjson, "1").await.unwrap();
        std::fs::rename(&path, temp.path().join("out.1")).unwrap();
        write(&ndjson, "2").await.unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "2\n");
        let rotated = std::fs::read_to_string(temp.path().join("out.1")).unwrap();
        assert_eq!(rotated, "1\n");
    }

    #[tokio::test]
    async fn a_full_disk_is_an_error_and_the_next_write_begins_on_a_new_line() {
        let full = Ndjson::open(Path::new("/dev/full")).unwrap();
        assert!(write(&full, "1").await.is_err());
        let (done, _waits) = oneshot::channel();
        let bodies = vec![Bytes::from("2")];
        assert_eq!(lines(&[Write { bodies, done }], true), b"\n2\n");
    }

    #[test]
    fn a_write_that_nobody_waits_for_is_not_made() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("out.ndjson");
        let (writes, received) = mpsc::channel(2);
        for body in ["given up", "kept"] {
            let (done, waits) = oneshot::channel();
            let bodies = vec![Bytes::from(body)];
            writes.try_send(Write { bodies, done }).unwrap();
            if body == "kept" {
                std::mem::forget(waits);
            }
        }
        drop(writes);
        serve(Sink::File(LineFile::open(&path).unwrap()), received);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "kept\n");
    }
}
