//! The policies that `docs/operations.md` gives, as the server takes them: each with a user who has no other right.

use serde_json::{Value, json};

use crate::tools::repository;

/// The bucket that the policies name.
pub const BUCKET: &str = "my-bucket";
/// The database that they name.
pub const DATABASE: &str = "test.db";

/// A policy of the document.
#[derive(Debug)]
pub struct Policy {
    name: String,
    content: Value,
}

impl Policy {
    /// The access key of its user.
    pub fn key(&self) -> String {
        format!("user-{}", self.name)
    }

    /// The user's secret.
    pub fn secret(&self) -> String {
        format!("secret-{}", self.name)
    }

    pub(crate) fn identity(&self) -> String {
        let credentials = json!([{"accessKey": self.key(), "secretKey": self.secret()}]);
        json!({"name": self.name, "credentials": credentials, "policyNames": [self.name]}).to_string()
    }

    pub(crate) fn definition(&self) -> String {
        json!({"name": self.name, "content": self.content.to_string()}).to_string()
    }
}

/// The policies, in the order of the document: `<!-- policy: NAME -->`, and behind it a block of JSON.
///
/// # Panics
/// If one of them is no JSON.
pub fn documented() -> Vec<Policy> {
    let text = std::fs::read_to_string(repository().join("docs/operations.md")).expect("the document");
    let parts = text.split("<!-- policy: ").skip(1);
    parts
        .map(|part| {
            let (name, rest) = part.split_once(" -->\n```json\n").expect("a block of JSON behind the name");
            let content = rest.split("```").next().unwrap_or_default();
            Policy { name: name.to_owned(), content: serde_json::from_str(content).expect("a policy") }
        })
        .collect()
}

/// The policy of this name.
///
/// # Panics
/// If the document has none.
pub fn policy(name: &str) -> Policy {
    documented().into_iter().find(|policy| policy.name == name).unwrap_or_else(|| panic!("no policy {name}"))
}
