//! Serves the user's own page from the directory of `--static`.
//!
//! Nothing outside of the directory can be read, and no file whose name begins with a dot: every
//! path is resolved, symbolic links included, before it is opened. The directory belongs to the
//! operator, so nobody else can put a link there between the two steps.

use std::{
    convert::Infallible,
    fs::{self, Metadata},
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    pin::Pin,
};

use axum::{
    body::Body,
    http::{HeaderValue, Request, Response, header},
};
use tower::{Service, ServiceExt as _};
use tower_http::services::{
    ServeDir,
    fs::{Backend, TokioBackend, TokioFile},
};

/// Why the directory cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum StaticDirError {
    #[error("--static {dir}: {error}; name a directory that this user may read")]
    Unreadable { dir: PathBuf, error: io::Error },
    #[error("--static {dir} has no index.html; name the directory that holds the built page")]
    NoIndex { dir: PathBuf },
}

/// A directory that was there, and had a page, when the server started.
#[derive(Debug, Clone)]
pub struct StaticDir {
    /// Absolute, and not resolved: it may be a link that is pointed elsewhere while this runs.
    root: PathBuf,
}

impl StaticDir {
    pub fn open(dir: &Path) -> Result<Self, StaticDirError> {
        let unreadable = |error| StaticDirError::Unreadable { dir: dir.to_owned(), error };
        let root = std::path::absolute(dir).map_err(unreadable)?;
        fs::read_dir(&root).map_err(unreadable)?;
        if !root.join("index.html").is_file() {
            return Err(StaticDirError::NoIndex { dir: dir.to_owned() });
        }
        Ok(Self { root })
    }

    /// Answers every path: `index.html` for a directory, and `missing` where no file is.
    ///
    /// The files are not compressed here, because a video would lose its length and its ranges.
    pub fn service<S>(
        self,
        missing: S,
    ) -> impl Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send>
    + Clone
    + Send
    + Sync
    + 'static
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
    {
        ServeDir::with_backend(self.root.clone(), self)
            .fallback(missing)
            .map_response(|response| finish(response.map(Body::new)))
    }

    /// The file behind `path`, or `NotFound` if no client may have it.
    async fn resolve(&self, path: PathBuf) -> io::Result<PathBuf> {
        let not_found = |_why| io::Error::from(ErrorKind::NotFound);
        let asked = path.strip_prefix(&self.root).map_err(|_elsewhere| ErrorKind::NotFound)?;
        // What has no real path, such as a name that is too long, is not there.
        let root = tokio::fs::canonicalize(&self.root).await.map_err(not_found)?;
        let real = tokio::fs::canonicalize(&path).await.map_err(not_found)?;
        match real.strip_prefix(&root) {
            Ok(inside) if !is_hidden(asked) && !is_hidden(inside) => Ok(real),
            _ => Err(ErrorKind::NotFound.into()),
        }
    }
}

fn is_hidden(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str().as_encoded_bytes().starts_with(b"."))
}

type Pending<T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send>>;

impl Backend for StaticDir {
    type File = TokioFile;
    type Metadata = Metadata;
    type OpenFuture = Pending<TokioFile>;
    type MetadataFuture = Pending<Metadata>;

    fn open(&self, path: PathBuf) -> Self::OpenFuture {
        let dir = self.clone();
        Box::pin(async move {
            let path = dir.resolve(path).await?;
            // To open a pipe would wait for its other end.
            if !tokio::fs::metadata(&path).await?.is_file() {
                return Err(ErrorKind::NotFound.into());
            }
            TokioBackend.open(path).await
        })
    }

    fn metadata(&self, path: PathBuf) -> Self::MetadataFuture {
        let dir = self.clone();
        Box::pin(async move { tokio::fs::metadata(dir.resolve(path).await?).await })
    }
}

/// A browser asks each time whether the file has changed. Text is UTF-8, as Express says it too.
fn finish(mut response: Response<Body>) -> Response<Body> {
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    let text = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    if let Some(text) = text.filter(|kind| kind.starts_with("text/") && !kind.contains(';'))
        && let Ok(with_charset) = HeaderValue::from_str(&format!("{text}; charset=utf-8"))
    {
        headers.insert(header::CONTENT_TYPE, with_charset);
    }
    response
}
