//! Reading and writing the one cookie that is ours (RFC 6265).

use ws_session::SessionToken;

/// The first well-formed session token among the values of the `Cookie` header lines.
///
/// A browser may send several cookies of one name (for other paths or domains); one that is not a
/// token of ours does not hide the one that is.
pub(crate) fn session_token<'a>(
    headers: impl Iterator<Item = &'a str>,
    name: &str,
) -> Option<SessionToken> {
    headers
        .flat_map(|header| header.split(';'))
        .filter_map(|pair| pair.split_once('='))
        .filter(|(key, _)| key.trim() == name)
        .find_map(|(_, value)| SessionToken::parse(value.trim().trim_matches('"')).ok())
}

/// The value of the `Set-Cookie` header that hands out a session.
pub(crate) fn set_cookie(name: &str, token: &SessionToken, secure: bool) -> String {
    let secure = if secure { "; Secure" } else { "" };
    format!(
        "{name}={}; Path=/; HttpOnly; SameSite=Lax{secure}",
        token.encode()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_found_behind_others_of_its_name() {
        let token = SessionToken::from_random([7; 32]);
        let header = format!("a=b; ws_session=junk; ws_session={}; x", token.encode());
        let found = session_token([header.as_str()].into_iter(), "ws_session").unwrap();
        assert_eq!(found.id(), token.id());
    }

    #[test]
    fn another_name_is_not_ours() {
        let token = SessionToken::from_random([7; 32]);
        let header = format!("xws_session={}", token.encode());
        assert!(session_token([header.as_str()].into_iter(), "ws_session").is_none());
    }

    #[test]
    fn the_cookie_is_hidden_from_scripts_and_secure_over_tls() {
        let token = SessionToken::from_random([7; 32]);
        let plain = set_cookie("ws_session", &token, false);
        assert!(plain.contains("; HttpOnly") && plain.contains("; SameSite=Lax"));
        assert!(!plain.contains("Secure"));
        assert!(set_cookie("ws_session", &token, true).ends_with("; Secure"));
    }
}
