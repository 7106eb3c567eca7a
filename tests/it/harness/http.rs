//! HTTP/1.1 by hand: one connection, one request at a time, every byte under the test's control.

use std::{io, net::SocketAddr};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

/// A keep-alive connection.
#[derive(Debug)]
pub struct Http {
    stream: BufReader<TcpStream>,
    host: SocketAddr,
}

#[derive(Debug, Clone, Default)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// Header names and values.
pub type Headers<'a> = &'a [(&'a str, &'a str)];

impl Response {
    /// `name` in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Http {
    pub async fn open(host: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(host).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream), host })
    }

    /// A second handle of the same socket.
    pub fn duplicate(&self) -> io::Result<std::net::TcpStream> {
        Ok(socket2::SockRef::from(self.stream.get_ref()).try_clone()?.into())
    }

    pub async fn request(
        &mut self,
        method: &str,
        path: &str,
        headers: Headers<'_>,
        body: &[u8],
    ) -> io::Result<Response> {
        use std::fmt::Write as _;
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n", self.host);
        for (name, value) in headers {
            write!(head, "{name}: {value}\r\n").expect("a String takes everything");
        }
        if matches!(method, "POST" | "PUT" | "PATCH") {
            write!(head, "Content-Length: {}\r\n", body.len()).expect("a String takes everything");
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(body);
        self.write(&bytes).await?;
        self.read(method).await
    }

    /// Bytes as they are, which need not be a whole request.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// The answer to a request with this method that was written before.
    pub async fn read(&mut self, method: &str) -> io::Result<Response> {
        let status_line = self.line().await?;
        let status = status_line.split(' ').nth(1).and_then(|code| code.parse().ok());
        let mut response =
            Response { status: status.ok_or_else(malformed)?, ..Response::default() };
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').ok_or_else(malformed)?;
            response.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let bodiless = method == "HEAD" || matches!(response.status, 101 | 204 | 304);
        if bodiless {
            return Ok(response);
        }
        if response.header("transfer-encoding") == Some("chunked") {
            loop {
                let line = self.line().await?;
                let size = usize::from_str_radix(&line, 16).map_err(|_error| malformed())?;
                self.take(size, &mut response.body).await?;
                self.line().await?;
                if size == 0 {
                    return Ok(response);
                }
            }
        }
        match response.header("content-length").map(str::parse) {
            Some(Ok(size)) => self.take(size, &mut response.body).await?,
            Some(Err(_)) => return Err(malformed()),
            None => {
                self.stream.read_to_end(&mut response.body).await?;
            }
        }
        Ok(response)
    }

    async fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        line.truncate(line.trim_end().len());
        Ok(line)
    }

    async fn take(&mut self, size: usize, body: &mut Vec<u8>) -> io::Result<()> {
        let start = body.len();
        body.resize(start + size, 0);
        self.stream.read_exact(&mut body[start..]).await?;
        Ok(())
    }
}

/// One request on a connection of its own.
pub async fn request(
    host: SocketAddr,
    method: &str,
    path: &str,
    headers: Headers<'_>,
) -> io::Result<Response> {
    Http::open(host).await?.request(method, path, headers, b"").await
}

/// `request` for a server that must answer.
pub async fn get(host: SocketAddr, path: &str, headers: Headers<'_>) -> Response {
    request(host, "GET", path, headers).await.expect("the server answers")
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "not HTTP/1.1")
}
