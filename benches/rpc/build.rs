//! Generates tonic's client and server for the echo service, from a description in code: no protoc.

fn main() {
    let echo = tonic_build::manual::Method::builder()
        .name("echo")
        .route_name("Echo")
        .input_type("crate::Blob")
        .output_type("crate::Blob")
        .codec_path("tonic_prost::ProstCodec")
        .build();
    let service = tonic_build::manual::Service::builder().name("Echo").package("bench").method(echo).build();
    tonic_build::manual::Builder::new().compile(&[service]);
}
