/*
 * links: kds_proto nng::nng
 *
 * A client made of NNG's own req0 socket and TLS transport, as any program may write it.
 *
 *   nng_client HOST:PORT CA CERT KEY METHOD
 *
 * CERT's key is in KEY, both PEM. Sends an empty input of METHOD; Health.Echo a hundred times with bytes to compare. Prints the
 * status and the size of the answer's payload; exit status 0 for OK, 1 for another status, 2 where the transport fails.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <nng/nng.h>
#include <nng/protocol/reqrep0/req.h>
#include <nng/supplemental/tls/tls.h>
#include <nng/transport/tls/tls.h>

#include "health.pb-c.h"
#include "rpc.pb-c.h"

static void must(int rv, const char *what)
{
	if (rv != 0) {
		fprintf(stderr, "nng_client: %s: %s\n", what, nng_strerror(rv));
		exit(2);
	}
}

static char *read_file(const char *path)
{
	char *text = calloc(1, 65536);
	FILE *f = fopen(path, "re");
	if (!text || !f || fread(text, 1, 65535, f) == 0) {
		fprintf(stderr, "nng_client: cannot read %s\n", path);
		exit(2);
	}
	fclose(f);
	return text;
}

static nng_tls_config *configure(const char *ca_file, const char *certificate_file, const char *key_file)
{
	nng_tls_config *config;
	char *ca = read_file(ca_file), *certificate = read_file(certificate_file), *key = read_file(key_file);
	must(nng_tls_config_alloc(&config, NNG_TLS_MODE_CLIENT), "make a TLS configuration");
	must(nng_tls_config_auth_mode(config, NNG_TLS_AUTH_MODE_REQUIRED), "require the server's certificate");
	must(nng_tls_config_ca_chain(config, ca, NULL), "load the CA");
	must(nng_tls_config_own_cert(config, certificate, key, NULL), "load the certificate");
	must(nng_tls_config_server_name(config, "key.example.com"), "set the server's name");
	free(ca);
	free(certificate);
	free(key);
	return config;
}

static nng_socket dial(const char *address, nng_tls_config *config)
{
	nng_socket socket;
	nng_dialer dialer;
	char url[256];
	snprintf(url, sizeof url, "tls+tcp://%s", address);
	must(nng_req0_open(&socket), "open a socket");
	must(nng_socket_set_ms(socket, NNG_OPT_RECVTIMEO, 20000), "set a timeout");
	must(nng_socket_set_ms(socket, NNG_OPT_SENDTIMEO, 20000), "set a timeout");
	must(nng_dialer_create(&dialer, socket, url), "make a dialer");
	must(nng_dialer_set_ptr(dialer, NNG_OPT_TLS_CONFIG, config), "configure the dialer");
	must(nng_dialer_start(dialer, NNG_FLAG_NONBLOCK), "dial");
	return socket;
}

static Kds__V1__Response *call(nng_socket socket, const char *method, ProtobufCBinaryData payload)
{
	Kds__V1__Request request = KDS__V1__REQUEST__INIT;
	request.method = (char *)(uintptr_t)method;
	request.payload = payload;
	request.timeout_ms = 10000;
	uint8_t packed[4096];
	if (kds__v1__request__get_packed_size(&request) > sizeof packed)
		abort();
	size_t len = kds__v1__request__pack(&request, packed);
	void *answer;
	size_t answer_len;
	must(nng_send(socket, packed, len, 0), "send");
	must(nng_recv(socket, &answer, &answer_len, NNG_FLAG_ALLOC), "receive");
	Kds__V1__Response *response = kds__v1__response__unpack(NULL, answer_len, answer);
	nng_free(answer, answer_len);
	if (!response) {
		fprintf(stderr, "nng_client: the answer is no Response\n");
		exit(2);
	}
	return response;
}

static Kds__V1__Response *call_echo(nng_socket socket)
{
	uint8_t data[1024], packed[2048];
	Kds__V1__Response *response = NULL;
	for (int i = 0; i < 100; i++) {
		Kds__V1__EchoRequest echo = KDS__V1__ECHO_REQUEST__INIT;
		memset(data, i, sizeof data);
		echo.data = (ProtobufCBinaryData){ .len = sizeof data, .data = data };
		size_t len = kds__v1__echo_request__pack(&echo, packed);
		if (response)
			kds__v1__response__free_unpacked(response, NULL);
		response = call(socket, "Health.Echo", (ProtobufCBinaryData){ .len = len, .data = packed });
		/* EchoRequest and EchoResponse are alike on the wire. */
		if (response->code == KDS__V1__CODE__OK &&
		    (response->payload.len != len || memcmp(response->payload.data, packed, len) != 0)) {
			fprintf(stderr, "nng_client: echo %d came back changed\n", i);
			exit(2);
		}
	}
	return response;
}

int main(int argc, char **argv)
{
	if (argc != 6) {
		fprintf(stderr, "usage: nng_client HOST:PORT CA CERT KEY METHOD\n");
		return 2;
	}
	nng_tls_config *config = configure(argv[2], argv[3], argv[4]);
	nng_socket socket = dial(argv[1], config);
	Kds__V1__Response *response = strcmp(argv[5], "Health.Echo") == 0
					  ? call_echo(socket)
					  : call(socket, argv[5], (ProtobufCBinaryData){ .len = 0 });
	const ProtobufCEnumValue *code = protobuf_c_enum_descriptor_get_value(&kds__v1__code__descriptor, (int)response->code);
	int status = response->code == KDS__V1__CODE__OK ? 0 : 1;
	printf("%s %zu bytes%s%s\n", code ? code->name : "?", response->payload.len, *response->message ? ": " : "",
	       response->message);
	kds__v1__response__free_unpacked(response, NULL);
	nng_close(socket);
	nng_tls_config_free(config);
	return status;
}
