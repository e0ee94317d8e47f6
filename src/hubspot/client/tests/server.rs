//! A server for one request, whose reply is written byte by byte.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

const REQUEST_BYTES_MAX: usize = 64 << 10;

/// What the server does with its only request.
pub(super) enum Deed {
    /// Sends these bytes and closes the connection.
    Reply(Vec<u8>),
    /// Sends these bytes and then nothing, until the client goes away.
    Hang(Vec<u8>),
}

/// A server of one connection; its task yields the request it got.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    pub(super) request: JoinHandle<io::Result<String>>,
}

impl Server {
    pub(super) async fn start(deed: Deed) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let request = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await?;
            let request = read_request(&mut stream).await?;
            match deed {
                Deed::Reply(bytes) => {
                    stream.write_all(&bytes).await?;
                    stream.shutdown().await?;
                }
                Deed::Hang(bytes) => {
                    stream.write_all(&bytes).await?;
                    stream.read_u8().await.ok();
                }
            }
            Ok(request)
        });
        Self { address, request }
    }
}

async fn read_request(stream: &mut TcpStream) -> io::Result<String> {
    let mut request = Vec::new();
    while request.len() < REQUEST_BYTES_MAX && !is_whole(&request) {
        if stream.read_buf(&mut request).await? == 0 {
            break;
        }
    }
    Ok(String::from_utf8_lossy(&request).into_owned())
}

fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request).to_ascii_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .map_or(0, |length| length.trim().parse().unwrap());
    body.len() >= length
}
