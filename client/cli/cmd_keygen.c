/* seismo keygen: a pair of keys for a daemon or a client, into files. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zmq.h>

#include "client/cli/body.h"
#include "client/cli/cli.h"
#include "client/cli/words.h"
#include "proto/directory.h"
#include "proto/keyfile.h"

#define NAME_MAX_BYTES 59 /* of a client, so that the daemon takes NAME.pub */

enum { OPT_NAME, OPT_SERVER };
static const struct cli_option options[] = {
    [OPT_NAME] = {"name", "NAME", "whose keys; the files are NAME.key and NAME.pub (client)"},
    [OPT_SERVER] = {"server", NULL, "a daemon's keys: server.key and server.pub"},
    {NULL, NULL, NULL},
};

static enum cli_exit make_files(const char *name, bool server, const char *secret_path,
                                const char *public_path)
{
    char public_key[KEY_TEXT], secret_key[KEY_TEXT], comment[512], errmsg[SEISMO_ERRMSG];
    int err;

    /* Looked at first, so that the usual mistake leaves nothing behind. */
    if (access(public_path, F_OK) == 0) {
        return cli_fail(CLI_FAILED, "%s is there already and stays as it is; choose another name",
                        public_path);
    }
    if (!zmq_has("curve") || zmq_curve_keypair(public_key, secret_key) != 0) {
        return cli_fail(CLI_FAILED, "this libzmq was built without CURVE; keys cannot be made");
    }
    snprintf(comment, sizeof(comment),
             "# Secret key of \"%s\" for seismo: whoever has this file is \"%s\". Show it to "
             "nobody.\n",
             name, name);
    err = keyfile_write(secret_path, KEYFILE_SECRET, comment, secret_key, errmsg);
    explicit_bzero(secret_key, sizeof(secret_key));
    if (err != 0) {
        return cli_fail(CLI_FAILED, "%s", errmsg);
    }
    snprintf(comment, sizeof(comment),
             server ? "# Public key of a seismo daemon: clients need a copy of this file.\n"
                    : "# Public key of \"%s\" for seismo. In a daemon's directory of clients it "
                      "needs a line of roles,\n# with some of these:\n"
                      "# roles = push PREFIX-OF-RUNS, query, admin\n",
             name);
    err = keyfile_write(public_path, KEYFILE_PUBLIC, comment, public_key, errmsg);
    if (err != 0) {
        unlink(secret_path);
        return cli_fail(CLI_FAILED, "%s", errmsg);
    }
    return CLI_OK;
}

static void print_files(const struct cli *cli, bool server, const char *name,
                        const char *secret_path, const char *public_path)
{
    if (cli->json) {
        json_t *document = json_pack("{s:i, s:s, s:s, s:s}", "schema", 1, "name", name, "secret",
                                     secret_path, "public", public_path);

        body_print(document);
        json_decref(document);
        return;
    }
    words_put(secret_path, stdout);
    puts(server ? "  secret: server_key in [security] of seismod.conf"
                : "  secret: SEISMO_KEY_FILE of whoever uses it");
    words_put(public_path, stdout);
    puts(server ? "  public: SEISMO_SERVER_KEY_FILE of each client"
                : "  public: into the daemon's directory of clients, with a line of roles");
}

static enum cli_exit run(struct cli *cli, const struct cli_args *args)
{
    bool server = args->option[OPT_SERVER] != NULL;
    const char *dir = args->word[0];
    const char *name = args->option[OPT_NAME];
    char *secret_path, *public_path = NULL;
    enum cli_exit code;

    if (name == NULL) {
        name = server ? "server" : "client";
    }
    if (*name == '\0' || *name == '.' || strlen(name) > NAME_MAX_BYTES ||
        name[strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.@-")]) {
        return cli_fail(CLI_USAGE,
                        "--name: a name has 1 to %d letters, digits and _ . @ -, and begins with "
                        "no dot",
                        NAME_MAX_BYTES);
    }
    /* The daemon, which is another user than root, has to get through to its files. */
    if (directory_make(dir, server ? 0755 : 0700) != 0) {
        return cli_fail(CLI_FAILED, "cannot make the directory %s: %s", dir, strerror(errno));
    }
    if (asprintf(&secret_path, "%s/%s.key", dir, name) < 0) {
        return cli_fail(CLI_FAILED, "out of memory");
    }
    if (asprintf(&public_path, "%s/%s.pub", dir, name) < 0) {
        free(secret_path);
        return cli_fail(CLI_FAILED, "out of memory");
    }
    code = make_files(name, server, secret_path, public_path);
    if (code == CLI_OK) {
        print_files(cli, server, name, secret_path, public_path);
    }
    free(secret_path);
    free(public_path);
    return code;
}

const struct command cmd_keygen = {
    .name = "keygen",
    .synopsis = "DIR",
    .summary = "Make the keys with which a daemon is used from elsewhere",
    .examples = "seismo keygen /etc/seismo --server\n"
                "seismo keygen ~/.config/seismo --name ci-runner",
    .details = "Two files, a secret key that only you can read and a public one to give away. No "
               "file is\never replaced. SECURITY.md says where each one goes.",
    .options = options,
    .min_words = 1,
    .max_words = 1,
    .run = run,
};
