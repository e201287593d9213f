//! Keys in a listing that `object_store` can't express.
//!
//! Its paths have no empty segment, no `.` and no `..`, and no control character: one such key among thousands makes
//! the whole listing fail. A slash at the end, which marks folders, it takes away: the marker `a/` reads as the object
//! `a`. No key of ours is of these kinds, so the objects are taken out of the listing before it is read.

use std::borrow::Cow;

use crate::Bucket;

/// The reply to a LIST without such keys.
pub(crate) fn without_odd_keys(xml: &str) -> Cow<'_, str> {
    let xml = without(Cow::Borrowed(xml), "Contents", "Key", Bucket::is_key);
    // The folders of a listing end with a slash.
    without(xml, "CommonPrefixes", "Prefix", |prefix| prefix.strip_suffix('/').is_some_and(Bucket::is_key))
}

/// Takes out the elements `element` whose `name` is not as it should be.
fn without<'a>(xml: Cow<'a, str>, element: &str, name: &str, is_fine: impl Fn(&str) -> bool) -> Cow<'a, str> {
    let (open, close) = (format!("<{element}>"), format!("</{element}>"));
    let mut kept = String::new();
    let mut rest = &*xml;
    let mut behind_kept = rest;
    let mut removed = false;
    while let Some((at, _)) = rest.match_indices(&open).next() {
        let Some(length) = rest.get(at..).and_then(|from| from.find(&close)) else { break };
        let (before, from) = rest.split_at(at);
        let (whole, behind) = from.split_at(length + close.len());
        kept.push_str(before);
        match text_of(whole, name).filter(|key| !is_fine(key)) {
            Some(key) => {
                tracing::debug!(key, "this key is none of ours, and is left out of the listing");
                removed = true;
            }
            None => kept.push_str(whole),
        }
        rest = behind;
        behind_kept = behind;
    }
    if !removed {
        return xml;
    }
    kept.push_str(behind_kept);
    Cow::Owned(kept)
}

/// The text of the first element of this name.
fn text_of(xml: &str, name: &str) -> Option<String> {
    let (_, behind) = xml.split_once(&format!("<{name}>"))?;
    let (text, _) = behind.split_once(&format!("</{name}>"))?;
    let mut pieces = text.split('&');
    let mut plain = pieces.next()?.to_owned();
    for piece in pieces {
        let (entity, behind) = piece.split_once(';')?;
        let number = |digits: &str, radix| char::from_u32(u32::from_str_radix(digits, radix).ok()?);
        plain.push(match entity {
            "amp" => '&',
            "lt" => '<',
            "gt" => '>',
            "quot" => '"',
            "apos" => '\'',
            _ => match entity.strip_prefix("#x") {
                Some(digits) => number(digits, 16)?,
                None => number(entity.strip_prefix('#')?, 10)?,
            },
        });
        plain.push_str(behind);
    }
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(keys: &[&str]) -> String {
        let contents: String =
            keys.iter().map(|key| format!("<Contents><Key>{key}</Key><Size>1</Size></Contents>")).collect();
        format!("<ListBucketResult><Name>b</Name>{contents}<KeyCount>{}</KeyCount></ListBucketResult>", keys.len())
    }

    #[test]
    fn a_listing_without_odd_keys_is_as_it_was() {
        for keys in
            [&[][..], &["a/b", "it&#39;s.db/0000/x", "&lt;a&gt; &amp; &quot;b&quot;", "100%/%2F", "a/...", "größe"]]
        {
            assert!(matches!(without_odd_keys(&page(keys)), Cow::Borrowed(_)), "{keys:?}");
        }
    }

    #[test]
    fn odd_keys_are_left_out() {
        for odd in ["a//b", "/a", "a/", "a/../b", "./a", "a&#xA;b", "a/&#x2F;b", "a&#x2f;", "&#47;a", "/"] {
            assert_eq!(
                without_odd_keys(&page(&["a/1", odd, "a/2"])).replace("3<", "2<"),
                page(&["a/1", "a/2"]),
                "{odd}"
            );
        }
        let folders = "<R><CommonPrefixes><Prefix>a/</Prefix></CommonPrefixes>\
                       <CommonPrefixes><Prefix>b//</Prefix></CommonPrefixes></R>";
        assert_eq!(without_odd_keys(folders), "<R><CommonPrefixes><Prefix>a/</Prefix></CommonPrefixes></R>");
    }

    #[test]
    fn what_is_no_listing_is_left_alone() {
        for text in ["", "<Contents>", "<Contents><Key>a//b</Key>", "<Contents><Key>a//b</Contents>", "</Contents>"] {
            assert_eq!(without_odd_keys(text), text);
        }
    }
}
