//! Headers of a write, as they are kept and given back.

use std::collections::{BTreeMap, HashMap};

use s3s::dto::{CopyObjectInput, CreateMultipartUploadInput, GetObjectOutput, HeadObjectOutput, PutObjectInput};

use crate::object_file::Attributes;

/// What S3 says of an object whose writer named no type.
const DEFAULT_CONTENT_TYPE: &str = "binary/octet-stream";

/// The inputs have the same fields, but no trait in common.
macro_rules! attributes_from {
    ($($input:ty),*) => {$(
        impl From<&mut $input> for Attributes {
            fn from(input: &mut $input) -> Self {
                Self {
                    content_type: input.content_type.take(),
                    content_encoding: input.content_encoding.take().and_then(without_framing),
                    content_disposition: input.content_disposition.take(),
                    content_language: input.content_language.take(),
                    cache_control: input.cache_control.take(),
                    metadata: sorted(input.metadata.take()),
                }
            }
        }
    )*};
}

attributes_from!(PutObjectInput, CopyObjectInput, CreateMultipartUploadInput);

/// Puts them into a reply: `GetObjectOutput` and `HeadObjectOutput` have these fields in common.
macro_rules! attributes_into {
    ($($method:ident: $output:ty),*) => {$(
        impl Attributes {
            pub(super) fn $method(&self, output: &mut $output) {
                let content_type = self.content_type.as_deref().unwrap_or(DEFAULT_CONTENT_TYPE);
                output.content_type = Some(content_type.to_owned());
                output.content_encoding.clone_from(&self.content_encoding);
                output.content_disposition.clone_from(&self.content_disposition);
                output.content_language.clone_from(&self.content_language);
                output.cache_control.clone_from(&self.cache_control);
                output.metadata = Some(self.metadata.clone().into_iter().collect());
            }
        }
    )*};
}

attributes_into!(fill_get: GetObjectOutput, fill_head: HeadObjectOutput);

/// `aws-chunked` says how the request was sent, not what the object is.
fn without_framing(encoding: String) -> Option<String> {
    let kept: Vec<&str> =
        encoding.split(',').map(str::trim).filter(|name| !name.is_empty() && *name != "aws-chunked").collect();
    (!kept.is_empty()).then(|| kept.join(","))
}

fn sorted(metadata: Option<HashMap<String, String>>) -> BTreeMap<String, String> {
    metadata.unwrap_or_default().into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::without_framing;

    #[test]
    fn framing_is_no_encoding_of_the_object() {
        assert_eq!(without_framing("aws-chunked".into()), None);
        assert_eq!(without_framing("gzip, aws-chunked".into()), Some("gzip".into()));
        assert_eq!(without_framing("br,gzip".into()), Some("br,gzip".into()));
    }
}
