#include "daemon/endpoint.h"

#include <arpa/inet.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#define TCP "tcp://"
#define PATH_LIMIT (sizeof(((struct sockaddr_un *)0)->sun_path) - 1) /* bytes of a socket path */

static bool is_loopback(const char *host)
{
    struct in_addr address;
    if (inet_pton(AF_INET, host, &address) == 1)
        return ntohl(address.s_addr) >> 24 == 127;
    return strcmp(host, "[::1]") == 0;
}

/* Numeric, or every address there is. A name could come to mean another machine's address. */
static bool is_address(const char *host)
{
    unsigned char address[sizeof(struct in6_addr)];
    char text[64];
    size_t n = strlen(host);
    if (strcmp(host, "*") == 0 || inet_pton(AF_INET, host, address) == 1)
        return true;
    if (n < 2 || host[0] != '[' || host[n - 1] != ']')
        return false;
    snprintf(text, sizeof(text), "%.*s", (int)(n - 2), host + 1);
    return inet_pton(AF_INET6, text, address) == 1;
}

static bool is_port(const char *port)
{
    if (strcmp(port, "*") == 0)
        return true;
    size_t digits = strspn(port, "0123456789");
    return digits > 0 && digits <= 5 && port[digits] == 0 && atoi(port) <= 65535;
}

static int check_tcp(char **endpoint, const char *address, char errmsg[SEISMO_ERRMSG])
{
    const char *colon = strrchr(address, ':');
    char host[64];
    if (!colon || !is_port(colon + 1) ||
        snprintf(host, sizeof(host), "%.*s", (int)(colon - address), address) >=
            (int)sizeof(host)) {
        snprintf(errmsg, SEISMO_ERRMSG, "\"%.100s\" is not tcp://ADDRESS:PORT", *endpoint);
        return SEISMO_ECONFIG;
    }
    if (strcmp(host, "localhost") == 0) {
        char *numeric;
        if (asprintf(&numeric, "tcp://127.0.0.1%s", colon) < 0) {
            snprintf(errmsg, SEISMO_ERRMSG, "no memory for an endpoint");
            return SEISMO_ENOMEM;
        }
        free(*endpoint);
        *endpoint = numeric;
        return 0;
    }
    if (is_address(host))
        return 0;
    snprintf(errmsg, SEISMO_ERRMSG,
             "%.80s has no numeric address; give one of this machine's, as in "
             "tcp://192.0.2.1:7747 or tcp://[2001:db8::1]:7747, or * for all",
             *endpoint);
    return SEISMO_ECONFIG;
}

bool endpoint_is_tcp(const char *endpoint)
{
    return strncmp(endpoint, TCP, sizeof(TCP) - 1) == 0;
}

bool endpoint_is_local(const char *endpoint)
{
    if (!endpoint_is_tcp(endpoint))
        return true;
    const char *address = endpoint + sizeof(TCP) - 1;
    char host[64];
    snprintf(host, sizeof(host), "%.*s", (int)(strrchr(address, ':') - address), address);
    return is_loopback(host);
}

static int check_ipc(const char *endpoint, const char *path, char errmsg[SEISMO_ERRMSG])
{
    if (strlen(path) > PATH_LIMIT) {
        snprintf(errmsg, SEISMO_ERRMSG,
                 "the path of a socket has at most %zu bytes, this one has %zu; give a shorter "
                 "one: %.100s…",
                 PATH_LIMIT, strlen(path), endpoint);
        return SEISMO_ECONFIG;
    }
    if (*path == 0 || *path == '*' || *path == '@') {
        snprintf(errmsg, SEISMO_ERRMSG, "\"%.100s\" names no socket file; give ipc://PATH",
                 endpoint);
        return SEISMO_ECONFIG;
    }
    return 0;
}

int endpoint_check(char **endpoint, char errmsg[SEISMO_ERRMSG])
{
    if (endpoint_is_tcp(*endpoint))
        return check_tcp(endpoint, *endpoint + sizeof(TCP) - 1, errmsg);
    if (strncmp(*endpoint, "ipc://", 6) == 0)
        return check_ipc(*endpoint, *endpoint + 6, errmsg);
    snprintf(errmsg, SEISMO_ERRMSG, "\"%.100s\" is neither tcp://ADDRESS:PORT nor ipc://PATH",
             *endpoint);
    return SEISMO_ECONFIG;
}
