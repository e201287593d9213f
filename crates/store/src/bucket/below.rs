//! What lies directly below a prefix, one reply at a time.

use std::time::Instant;

use object_store::list::PaginatedListOptions;
use object_store::path::Path;
use object_store::{ListResult, ObjectStore as _};

use super::{Bucket, Object, object};
use crate::StoreError;
use crate::meter::Operation;

/// Where a reply begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// With the first.
    First,
    /// Behind this key, which need not exist.
    Behind(String),
    /// Where another reply for the same prefix has ended.
    Next(Next),
}

/// Where a reply has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Next(String);

impl Next {
    /// As a service has named it.
    #[must_use]
    pub fn new(token: String) -> Self {
        Self(token)
    }
}

/// Folders and objects directly below a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Below {
    /// The names of the folders, in order.
    pub folders: Vec<String>,
    /// The objects that are in no folder, in the order of their keys.
    pub objects: Vec<Object>,
    /// Where there is more behind them: a service tells of a thousand in one reply.
    pub next: Option<Next>,
}

impl Bucket {
    /// Lists what lies directly below `prefix` ("" for the bucket itself), with one request. A bucket that is a folder on a
    /// disk tells everything behind `from` at once.
    ///
    /// # Errors
    /// See [`crate::StoreErrorKind`].
    pub async fn below(&self, prefix: &str, from: &Start) -> Result<Below, StoreError> {
        let op = "LIST";
        let folder = if prefix.is_empty() { None } else { Some(self.path(op, prefix)?) };
        self.count(Operation::List, 0);
        let list = || async {
            let asked = Instant::now();
            match tokio::time::timeout(self.patience, self.below_once(folder.as_ref(), from)).await {
                Ok(result) => self.checked(op, prefix, None, result),
                Err(_) => Err(self.given_up(op, prefix, asked, self.patience)),
            }
        };
        let (listed, next) = self.renewing(list).await?;
        let mut folders: Vec<String> =
            listed.common_prefixes.iter().filter_map(|path| path.filename().map(str::to_owned)).collect();
        let mut objects: Vec<Object> = listed.objects.into_iter().map(object).collect();
        folders.sort();
        objects.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Below { folders, objects, next: next.map(Next::new) })
    }

    async fn below_once(
        &self,
        folder: Option<&Path>,
        from: &Start,
    ) -> object_store::Result<(ListResult, Option<String>)> {
        if let Some(lister) = &self.inner.lister {
            let prefix = folder.map(|folder| format!("{folder}/"));
            let (offset, page_token) = match from {
                Start::First => (None, None),
                Start::Behind(key) => (Some(key.clone()), None),
                Start::Next(Next(token)) => (None, Some(token.clone())),
            };
            let options = PaginatedListOptions {
                offset,
                page_token,
                delimiter: Some("/".into()),
                ..PaginatedListOptions::default()
            };
            let listed = lister.list_paginated(prefix.as_deref(), options).await?;
            return Ok((listed.result, listed.page_token));
        }
        let mut listed = self.inner.reader.list_with_delimiter(folder).await?;
        if let Start::Behind(key) = from {
            listed.common_prefixes.retain(|path| format!("{path}/") > *key);
            listed.objects.retain(|object| object.location.as_ref() > key.as_str());
        }
        Ok((listed, None))
    }
}
