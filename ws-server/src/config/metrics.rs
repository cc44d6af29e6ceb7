//! `[metrics]`: figures for Prometheus.

use ws_transport::ListenAddr;

use super::listen::plain_tcp;
use super::reader::Reader;

/// `[metrics]`: figures for Prometheus.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct MetricsConfig {
    /// Where they are besides the control API; `None` is nowhere.
    pub listen: Option<ListenAddr>,
}

pub(super) fn read(reader: &mut Reader<'_>) -> MetricsConfig {
    MetricsConfig {
        listen: reader.read_optional("metrics.listen", plain_tcp),
    }
}
