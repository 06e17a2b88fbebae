#include "tests/support/echo.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "health.pb-c.h"
#include "rpc.pb-c.h"

static void *must_alloc(size_t size)
{
	void *p = malloc(size);
	if (!p) {
		fprintf(stderr, "out of memory\n");
		exit(2);
	}
	return p;
}

uint8_t *echo_request(const uint8_t *data, size_t len, size_t *ret_len)
{
	Kds__V1__EchoRequest echo = KDS__V1__ECHO_REQUEST__INIT;
	Kds__V1__Request request = KDS__V1__REQUEST__INIT;
	echo.data = (ProtobufCBinaryData){ .len = len, .data = (uint8_t *)(uintptr_t)data };
	request.method = (char *)(uintptr_t) "Health.Echo";
	request.timeout_ms = 20000;
	request.payload.len = kds__v1__echo_request__get_packed_size(&echo);
	request.payload.data = must_alloc(request.payload.len + 1);
	kds__v1__echo_request__pack(&echo, request.payload.data);
	uint8_t *packed = must_alloc(kds__v1__request__get_packed_size(&request));
	*ret_len = kds__v1__request__pack(&request, packed);
	free(request.payload.data);
	return packed;
}

/* Is this packed Response the echo of `data`? */
static bool is_echo(const uint8_t *packed, size_t packed_len, const uint8_t *data, size_t len)
{
	Kds__V1__EchoResponse *echoed = NULL;
	Kds__V1__Response *response = kds__v1__response__unpack(NULL, packed_len, packed);
	if (response && response->code == KDS__V1__CODE__OK)
		echoed = kds__v1__echo_response__unpack(NULL, response->payload.len, response->payload.data);
	bool same = echoed && echoed->data.len == len && memcmp(echoed->data.data, data, len) == 0;
	if (echoed)
		kds__v1__echo_response__free_unpacked(echoed, NULL);
	if (response)
		kds__v1__response__free_unpacked(response, NULL);
	return same;
}

bool echo(struct sp_client *c, const uint8_t *data, size_t len)
{
	const size_t size = ECHO_MAX + 1024;
	size_t request_len, answer_len = 0;
	uint8_t *answer = must_alloc(size), *request = echo_request(data, len, &request_len);
	bool same = sp_request(c, request, request_len, answer, size, &answer_len) && is_echo(answer, answer_len, data, len);
	free(request);
	free(answer);
	return same;
}
