//! The operator's page: files that anybody may read. What it shows it asks of the API, with the
//! token that the operator gives it.

use axum::extract::Request;
use axum::http::{HeaderName, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};

/// What the page may do: load its own files and ask its own server, nothing else.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

/// Path, media type and content.
const FILES: [(&str, &str, &str); 7] = [
    (
        "/",
        "text/html; charset=utf-8",
        include_str!("../../../web/operator.html"),
    ),
    (
        "/base.css",
        "text/css; charset=utf-8",
        include_str!("../../../web/base.css"),
    ),
    (
        "/operator.css",
        "text/css; charset=utf-8",
        include_str!("../../../web/operator.css"),
    ),
    (
        "/operator.js",
        "text/javascript; charset=utf-8",
        include_str!("../../../web/operator.js"),
    ),
    (
        "/api.js",
        "text/javascript; charset=utf-8",
        include_str!("../../../web/api.js"),
    ),
    (
        "/dom.js",
        "text/javascript; charset=utf-8",
        include_str!("../../../web/dom.js"),
    ),
    (
        "/plot.js",
        "text/javascript; charset=utf-8",
        include_str!("../../../web/plot.js"),
    ),
];

/// Whether a request asks for the page, which needs no token.
pub(super) fn is_page(request: &Request) -> bool {
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    is_read && FILES.iter().any(|(path, ..)| *path == request.uri().path())
}

/// `GET /` and its files.
pub(super) async fn page(uri: Uri) -> Response {
    let file = FILES.iter().find(|(path, ..)| *path == uri.path());
    let Some((_, media_type, content)) = file else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let headers = [
        (header::CONTENT_TYPE, *media_type),
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        ),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
    ];
    (headers, *content).into_response()
}

/// The paths of the page.
pub(super) fn paths() -> impl Iterator<Item = &'static str> {
    FILES.iter().map(|(path, ..)| *path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_used_and_nothing_is_written_into_the_page_itself() {
        let (_, _, html) = FILES[0];
        let all: String = FILES.iter().map(|(_, _, content)| *content).collect();
        for (path, ..) in &FILES[1..] {
            assert!(all.contains(&path[1..]), "{path} is used by nobody");
        }
        assert_eq!(html.matches("<script").count(), 1);
        assert!(html.contains("<script type=\"module\" src=\"operator.js\"></script>"));
        for inline in ["<style", " style=", " onclick=", "javascript:"] {
            assert!(!html.contains(inline), "{inline}");
        }
    }

    #[test]
    fn t72_the_page_has_no_way_to_make_markup_of_text() {
        let sinks = [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "Function(",
            "setHTML",
            "createContextualFragment",
            "DOMParser",
        ];
        for (path, _, content) in FILES {
            for sink in sinks {
                assert!(!content.contains(sink), "{path}: {sink}");
            }
        }
    }
}
