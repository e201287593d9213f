//! Credentials and region from the regular AWS chain.
//!
//! `object_store` asks for credentials before each request; [`Chain`] keeps what the chain of `aws-config` gave until
//! shortly before it expires, and asks again when the service refused it, so that rotated keys are picked up.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::default_provider::region::DefaultRegionChain;
use aws_config::ecs::EcsCredentialsProvider;
use aws_config::environment::{EnvironmentVariableCredentialsProvider, EnvironmentVariableRegionProvider};
use aws_config::meta::credentials::CredentialsProviderChain;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::{ProfileFileCredentialsProvider, ProfileFileRegionProvider};
use aws_config::web_identity_token::WebIdentityTokenCredentialsProvider;
use aws_credential_types::provider::error::CredentialsError as ChainError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use object_store::aws::AwsCredential;
use tokio::sync::Mutex;

/// Credentials are renewed when they would expire within this time.
const RENEW_BEFORE: Duration = Duration::from_secs(5 * 60);

/// The chain gave nothing, or failed. It never holds a secret.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct CredentialsError(String);

/// Where credentials come from, with what it last gave.
#[derive(Debug)]
pub(crate) struct Chain {
    local: bool,
    region: String,
    current: Mutex<Option<Current>>,
}

#[derive(Debug, Clone)]
struct Current {
    credential: Arc<AwsCredential>,
    expires: Option<SystemTime>,
}

impl Chain {
    /// Prepares the chain; nothing is asked yet.
    pub(crate) async fn new(local: bool) -> Self {
        Self { local, region: region(local).await, current: Mutex::new(None) }
    }

    pub(crate) fn region(&self) -> &str {
        &self.region
    }

    /// True if the chain has credentials. A service on this machine may be used without any; elsewhere their absence
    /// is an error.
    pub(crate) async fn any(&self) -> Result<bool, CredentialsError> {
        let mut current = self.current.lock().await;
        match self.provider().await.provide_credentials().await {
            Ok(found) => {
                *current = Some(convert(&found));
                Ok(true)
            }
            Err(ChainError::CredentialsNotLoaded(_)) if self.local => Ok(false),
            Err(error) => Err(describe(&error)),
        }
    }

    /// The service refused these credentials: true if the chain has others by now. They may have been rotated, and
    /// another request may have found that out already.
    pub(crate) async fn replaces(&self, refused: &AwsCredential) -> bool {
        let mut current = self.current.lock().await;
        if current.as_ref().is_some_and(|current| *current.credential != *refused) {
            return true;
        }
        let found = self.provider().await.provide_credentials().await.ok().map(|found| convert(&found));
        // Not kept if it is no other: the next request asks again.
        *current = found.filter(|found| *found.credential != *refused);
        current.is_some()
    }

    /// Credentials for one request.
    pub(crate) async fn credential(&self) -> Result<Arc<AwsCredential>, CredentialsError> {
        let mut current = self.current.lock().await;
        let now = SystemTime::now();
        let fresh = |c: &Current| c.expires.is_none_or(|at| at > now + RENEW_BEFORE);
        if let Some(found) = current.as_ref().filter(|c| fresh(c)) {
            return Ok(Arc::clone(&found.credential));
        }
        match self.provider().await.provide_credentials().await {
            Ok(found) => Ok(Arc::clone(&current.insert(convert(&found)).credential)),
            // A source that hiccups while the old ones still hold must not fail a commit.
            Err(error) => match current.as_ref().filter(|c| c.expires.is_some_and(|at| at > now)) {
                Some(old) => Ok(Arc::clone(&old.credential)),
                None => Err(describe(&error)),
            },
        }
    }

    /// A chain that was built anew reads the profile files anew.
    async fn provider(&self) -> SharedCredentialsProvider {
        if !self.local {
            return SharedCredentialsProvider::new(DefaultCredentialsChain::builder().build().await);
        }
        // The default chain without instance metadata, which a service on this machine must not wait for.
        SharedCredentialsProvider::new(
            CredentialsProviderChain::first_try("Environment", EnvironmentVariableCredentialsProvider::new())
                .or_else("Profile", ProfileFileCredentialsProvider::builder().build())
                .or_else("WebIdentityToken", WebIdentityTokenCredentialsProvider::builder().build())
                .or_else("Container", EcsCredentialsProvider::builder().build()),
        )
    }
}

async fn region(local: bool) -> String {
    let found = if local {
        RegionProviderChain::first_try(EnvironmentVariableRegionProvider::new())
            .or_else(ProfileFileRegionProvider::new())
            .region()
            .await
    } else {
        DefaultRegionChain::builder().build().region().await
    };
    found.map_or_else(|| "us-east-1".to_owned(), |region| region.to_string())
}

fn convert(found: &aws_credential_types::Credentials) -> Current {
    Current {
        credential: Arc::new(AwsCredential {
            key_id: found.access_key_id().to_owned(),
            secret_key: found.secret_access_key().to_owned(),
            token: found.session_token().map(str::to_owned),
        }),
        expires: found.expiry(),
    }
}

fn describe(error: &ChainError) -> CredentialsError {
    let mut text = error.to_string();
    let mut link = std::error::Error::source(error);
    while let Some(source) = link {
        text = format!("{text}: {source}");
        link = source.source();
    }
    CredentialsError(text)
}

/// The chain as `object_store` asks it.
#[derive(Debug)]
pub(crate) struct ForObjectStore(pub(crate) Arc<Chain>);

#[async_trait]
impl object_store::CredentialProvider for ForObjectStore {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        self.0
            .credential()
            .await
            .map_err(|error| object_store::Error::Generic { store: "credentials", source: Box::new(error) })
    }
}
