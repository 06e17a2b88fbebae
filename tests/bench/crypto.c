/*
 * What bare GnuTLS does on these cores: certificates from one CSR, on as many threads as there are cores.
 *
 *   bench-crypto CSR SECONDS
 *
 * A certificate here is: import the request, verify it, build with the common extensions, sign with P-256. No serial is committed,
 * nothing is sent. Prints one line of key=value pairs.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include <gnutls/abstract.h>
#include <gnutls/x509.h>

#include "common/base/clock.h"
#include "common/base/file.h"

static struct buffer csr;
static gnutls_x509_crt_t ca;
static gnutls_privkey_t ca_key;
static atomic_bool stop;
static atomic_ulong signed_count;

static void check(const char *what, int rv)
{
	if (rv < 0) {
		fprintf(stderr, "bench-crypto: %s: %s\n", what, gnutls_strerror(rv));
		exit(1);
	}
}

static void make_ca(void)
{
	gnutls_x509_privkey_t key;
	check("key", gnutls_x509_privkey_init(&key));
	check("key", gnutls_x509_privkey_generate(key, GNUTLS_PK_ECDSA,
						 GNUTLS_CURVE_TO_BITS(GNUTLS_ECC_CURVE_SECP256R1), 0));
	check("key", gnutls_privkey_init(&ca_key));
	check("key", gnutls_privkey_import_x509(ca_key, key, GNUTLS_PRIVKEY_IMPORT_AUTO_RELEASE));
	check("ca", gnutls_x509_crt_init(&ca));
	check("ca", gnutls_x509_crt_set_version(ca, 3));
	check("ca", gnutls_x509_crt_set_dn(ca, "CN=bench", NULL));
	check("ca", gnutls_x509_crt_set_key(ca, key));
	check("ca", gnutls_x509_crt_set_serial(ca, "\1", 1));
	check("ca", gnutls_x509_crt_set_activation_time(ca, time(NULL)));
	check("ca", gnutls_x509_crt_set_expiration_time(ca, time(NULL) + 86400));
	check("ca", gnutls_x509_crt_set_basic_constraints(ca, 1, 0));
	check("ca", gnutls_x509_crt_sign2(ca, ca, key, GNUTLS_DIG_SHA256, 0));
}

static void sign_one(void)
{
	static const char id[20] = "a key identifier 160";
	static const char name[] = "node1.example.com";
	gnutls_datum_t in = { csr.data, (unsigned)csr.len }, out;
	gnutls_x509_crq_t request;
	gnutls_x509_crt_t crt;
	check("csr", gnutls_x509_crq_init(&request));
	check("csr", gnutls_x509_crq_import(request, &in, GNUTLS_X509_FMT_PEM));
	check("crt", gnutls_x509_crt_init(&crt));
	check("crt", gnutls_x509_crt_set_version(crt, 3));
	check("crt", gnutls_x509_crt_set_crq(crt, request)); /* verifies the request's signature */
	check("crt", gnutls_x509_crt_set_serial(crt, "\1\2\3\4", 4));
	check("crt", gnutls_x509_crt_set_activation_time(crt, time(NULL)));
	check("crt", gnutls_x509_crt_set_expiration_time(crt, time(NULL) + 3600));
	check("crt", gnutls_x509_crt_set_basic_constraints(crt, 0, -1));
	check("crt", gnutls_x509_crt_set_key_usage(crt, GNUTLS_KEY_DIGITAL_SIGNATURE));
	check("crt", gnutls_x509_crt_set_key_purpose_oid(crt, GNUTLS_KP_TLS_WWW_SERVER, 0));
	check("crt", gnutls_x509_crt_set_subject_alt_name(crt, GNUTLS_SAN_DNSNAME, name, sizeof name - 1, 0));
	check("crt", gnutls_x509_crt_set_subject_key_id(crt, id, sizeof id));
	check("crt", gnutls_x509_crt_set_authority_key_id(crt, id, sizeof id));
	check("sign", gnutls_x509_crt_privkey_sign(crt, ca, ca_key, GNUTLS_DIG_SHA256, 0));
	check("export", gnutls_x509_crt_export2(crt, GNUTLS_X509_FMT_PEM, &out));
	gnutls_free(out.data);
	gnutls_x509_crt_deinit(crt);
	gnutls_x509_crq_deinit(request);
}

static void *work(void *arg)
{
	(void)arg;
	while (!atomic_load(&stop)) {
		sign_one();
		atomic_fetch_add(&signed_count, 1);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	struct status st;
	if (argc != 3 || file_read(argv[1], 1 << 16, &st, &csr) != STATUS_OK) {
		fprintf(stderr, "usage: bench-crypto CSR SECONDS\n");
		return 2;
	}
	make_ca();
	pthread_t threads[64];
	long cores = sysconf(_SC_NPROCESSORS_ONLN);
	if (cores > 64)
		cores = 64;
	for (long i = 0; i < cores; i++)
		if (pthread_create(&threads[i], NULL, work, NULL) != 0)
			return 1;
	uint64_t start = clock_monotonic_us();
	usleep((useconds_t)(atof(argv[2]) * 1e6));
	atomic_store(&stop, true);
	double took = (double)(clock_monotonic_us() - start) / 1e6;
	unsigned long n = atomic_load(&signed_count);
	for (long i = 0; i < cores; i++)
		pthread_join(threads[i], NULL);
	printf("rate=%.0f threads=%ld\n", (double)n / took, cores);
	gnutls_x509_crt_deinit(ca);
	gnutls_privkey_deinit(ca_key);
	buffer_free(&csr);
	return 0;
}
