//! Schemas of what is written as text, for the registry's description of its API.

use utoipa::{
    PartialSchema, ToSchema,
    openapi::{ObjectBuilder, RefOr, Schema, schema::Type},
};

use crate::{
    id,
    nix::StorePath,
    time::Time,
    version::{SoftwareVersion, VersionNumber},
};

/// Describes types that are written as text of a form.
macro_rules! texts {
    ($($name:ty: $pattern:literal, $says:literal;)*) => {$(
        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                let text = ObjectBuilder::new().schema_type(Type::String);
                text.pattern(Some($pattern)).description(Some($says)).into()
            }
        }

        impl ToSchema for $name {}
    )*};
}

texts! {
    id::RealmName: "^[a-z0-9][a-z0-9-]{0,39}$", "A trust domain.";
    id::GroupName: "^[a-z0-9][a-z0-9-]{0,39}$", "A set of hosts that take the same desired state.";
    id::ProfileName: "^[a-z0-9][a-z0-9-]{0,39}$", "A named slot on a host with Nix generations.";
    id::HostName: "^[a-z0-9][a-z0-9-]{0,39}$", "What a host calls itself.";
    id::LabelName: "^[a-z0-9][a-z0-9-]{0,39}$", "The key of a label.";
    id::LabelValue: "^[A-Za-z0-9._-]{1,63}$", "The value of a label.";
    id::System: "^[a-z0-9_]+-[a-z0-9_]+$", "A Nix system.";
    id::UserName: "^[a-z_][a-z0-9_-]{0,30}$", "A system user.";
    id::TargetPath: "^[a-z0-9][a-z0-9-]{0,39}/(_policy|[a-z0-9][a-z0-9-]{0,39})$",
        "The path of a manifest or policy.";
    id::RawKey: "^[0-9a-f]{64}$", "A raw Ed25519 public key.";
    id::HostId: "^[0-9a-f]{64}$", "Who a host is: the SHA-256 of its raw public key.";
    id::Digest: "^[0-9a-f]{64}$", "A SHA-256.";
    StorePath: "^/nix/store/[0-9a-z]{32}-[^/]+$", "A path in the Nix store.";
    Time: "^-?[0-9]{4,}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$",
        "A time in UTC, in whole seconds.";
    SoftwareVersion: "^[0-9]+[.][0-9]+[.][0-9]+$", "The version of a program.";
}

impl PartialSchema for VersionNumber {
    fn schema() -> RefOr<Schema> {
        let number = ObjectBuilder::new().schema_type(Type::Integer);
        let number = number.minimum(Some(1)).maximum(Some(u32::MAX));
        number.description(Some("The version of a manifest or policy.")).into()
    }
}

impl ToSchema for VersionNumber {}
