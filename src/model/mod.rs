//! The nouns of certplan. No I/O, no async, no clock: everything here is data.

mod address;
mod certificate;
mod desired;
mod name;
mod names;
mod observed;
mod record;
mod selection;

pub use certplan_provider::{
    Bundle, Capabilities, ChangeRef, Deployed, Fingerprint, Fqdn, FqdnError, KeyOrigin, KeyType, PrivateKey,
    ReadBack, Receipt, SecretRef, Slot, Update, Zone,
};

pub use address::{Address, AddressError};
pub use certificate::{CertificateError, CertificateFacts, sha256};
pub use desired::{
    AcmeIssuer, Desired, DesiredCertificate, DesiredDeployment, DesiredDnsProvider, DesiredIssuer,
    DesiredTarget, Eab, Encryption, Endpoint, IDENTITY, IDENTITY_FILE, KeyPolicy, Moved, OnRemove,
    Propagation, RenewBefore, Rotation, StateBackend,
};
pub use name::{Name, NameError};
pub use names::{CertName, CertNameError, NameSet};
pub use observed::{ChallengeLocation, DirectoryFacts, Fact, Observed, Served};
pub use record::{
    AccountOperation, AccountRecord, AriRecord, CertificateRecord, DeploymentRecord, DeploymentStage,
    Failures, Issuance, Issued, JournaledDeployment, JournaledTxt, Operation, OperationKey, SealedKey, Stage,
    TxtState,
};
pub use selection::Selection;
