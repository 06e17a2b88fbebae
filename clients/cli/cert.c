/* kds-cli cert: certificates. */
#include "clients/cli/cert.h"

static const struct argp_option request_options[] = {
	{ "name", OPT_NAME, "NODE", 0, "The node's DNS name", 0 },
	{ "key", OPT_KEY, "FILE", 0, "The private key; made if there is none (default: NODE.key)", 0 },
	{ "out", OPT_OUT, "FILE", 0, "Write the request there (default: standard output)", 0 },
	{ 0 },
};

static const struct argp_option sign_options[] = {
	{ "node", OPT_NODE, "NAME", 0, "The node it is for (default: the common name in the request)", 0 },
	{ "profile", OPT_PROFILE, "PROFILE", 0,
	  "node: for the node's own services (default); kds-client: to get the keys of its groups", 0 },
	{ "lifetime", OPT_LIFETIME, "HOURS", 0, "Default and limit: the settings certificate.*", 0 },
	{ "out", OPT_OUT, "FILE", 0, "Write the certificate there (default: standard output)", 0 },
	{ 0 },
};

static const struct argp_option list_options[] = {
	{ "local", OPT_LOCAL, NULL, 0, "Take what one replica has now, perhaps not the newest; works without a quorum",
	  0 },
	{ "subject", OPT_SUBJECT, "NAME", 0, "Only certificates of this node", 0 },
	{ "since", OPT_SINCE, "SERIAL", 0, "Only those with a higher serial", 0 },
	{ 0 },
};

static const struct argp_option verify_options[] = {
	{ "min-serial", OPT_MIN_SERIAL, "N", 0, "Instead of the cluster's minimum; with --ca the default is none", 0 },
	{ 0 },
};

static const struct argp_option renewal_options[] = {
	{ "before", OPT_BEFORE, "HOURS", 0, "Due so long before its end (default: a third of its life)", 0 },
	{ 0 },
};

static const struct argp_option match_options[] = {
	{ "passphrase-file", OPT_PASSPHRASE_FILE, "FILE", 0,
	  "The first line of FILE (-: ask, or read standard input) opens an encrypted key", 0 },
	{ 0 },
};

static const struct cli_command commands[] = {
	{
	    .verb = "request",
	    .arguments = "",
	    .purpose = "Make a key and a certificate request, on the node itself",
	    .examples = "  kds-cli cert request --name node1.example.com --out node1.csr\n"
			"  kds-cli cert request --name node1.example.com --key kds.key --out kds.csr\n"
			"\nThe key never leaves the node; only the request goes to `kds-cli cert sign'.",
	    .options = request_options,
	    .offline = true,
	    .run = cert_run_request,
	},
	{
	    .verb = "sign",
	    .arguments = "FILE.csr",
	    .purpose = "Have a request signed by the cluster's CA; prints the certificate in PEM",
	    .examples = "  kds-cli cert sign node1.csr --out node1.crt\n"
			"  kds-cli cert sign --profile kds-client --lifetime 24 kds.csr\n"
			"  kds-cli cert sign - < node1.csr\n",
	    .options = sign_options,
	    .min_args = 1,
	    .max_args = 1,
	    .run = cert_run_sign,
	},
	{
	    .verb = "list",
	    .arguments = "",
	    .purpose = "List the certificates that were issued and have not expired",
	    .examples = "  kds-cli cert list --subject node1.example.com",
	    .options = list_options,
	    .run = cert_run_list,
	},
	{
	    .verb = "show",
	    .arguments = "FILE",
	    .purpose = "Show what stands in a certificate, or in each of a file",
	    .examples = "  kds-cli cert show node1.crt\n"
			"  kds-cli cert sign node1.csr | kds-cli cert show -\n",
	    .offline = true,
	    .min_args = 1,
	    .max_args = 1,
	    .run = cert_run_show,
	},
	{
	    .verb = "verify",
	    .arguments = "FILE",
	    .purpose = "Would the cluster accept this certificate now? Exit status 1: no",
	    .examples = "  kds-cli cert verify node1.crt\n"
			"  kds-cli cert verify --ca ca.pem --min-serial 1200 node1.crt\n"
			"\nFILE: the certificate before its chain. Judged as the daemons judge it: the\n"
			"cluster's CAs, its minimum serial, removed services. With --ca FILE (and no\n"
			"--cert) no server is asked: the chain is verified against the CAs in FILE.",
	    .options = verify_options,
	    .min_args = 1,
	    .max_args = 1,
	    .run = cert_run_verify,
	},
	{
	    .verb = "needs-renewal",
	    .arguments = "FILE",
	    .purpose = "Is a certificate due for renewal? Exit status 1: no",
	    .examples = "  kds-cli cert needs-renewal node1.crt && systemctl start renew\n"
			"  kds-cli cert needs-renewal --before 12 node1.crt\n",
	    .options = renewal_options,
	    .offline = true,
	    .min_args = 1,
	    .max_args = 1,
	    .run = cert_run_needs_renewal,
	},
	{
	    .verb = "match",
	    .arguments = "CERT KEY",
	    .purpose = "Do a certificate and a private key belong together? Exit status 1: no",
	    .examples = "  kds-cli cert match node1.crt node1.key\n"
			"  kds-cli cert match infra-ca.crt infra-ca.key --passphrase-file passphrase\n",
	    .options = match_options,
	    .offline = true,
	    .min_args = 2,
	    .max_args = 2,
	    .run = cert_run_match,
	},
};

const struct cli_noun cli_cert = {
	.name = "cert",
	.purpose = "Certificates: request, sign, look at, verify",
	.commands = commands,
	.n_commands = sizeof commands / sizeof commands[0],
};
