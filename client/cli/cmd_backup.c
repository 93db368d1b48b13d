/* seismo backup: a copy of the database while the daemon goes on. */
#include "client/cli/body.h"
#include "client/cli/cli.h"
#include "client/cli/database.h"
#include "client/cli/interrupt.h"
#include "client/cli/progress.h"
#include "client/cli/words.h"
#include "daemon/archive/backup.h"

enum { OPT_DATABASE, OPT_FORCE };
static const struct cli_option options[] = {
    {"database", "DIR|FILE", "copy this one; else the daemon's"},
    {"force", NULL, "replace FILE"},
    {NULL, NULL, NULL},
};

static bool on_progress(void *arg, double share)
{
    progress_draw(arg, share, "copying");
    return interrupt_seen();
}

static enum cli_exit run(struct cli *cli, const struct cli_args *args)
{
    static const struct backup_ops ops = {.progress = on_progress};
    struct progress progress = {.term = &cli->err};
    char path[PATH_MAX], errmsg[SEISMO_ERRMSG], size[WORDS_MAX];
    const char *to = args->word[0];
    int64_t bytes = 0;
    enum cli_exit code = database_find(cli, args->option[OPT_DATABASE], path);
    int err;

    if (code != CLI_OK) {
        return code;
    }
    interrupt_catch();
    err =
        backup_database(path, to, args->option[OPT_FORCE] != NULL, &ops, &progress, &bytes, errmsg);
    progress_clear(&progress);
    if (err != 0) {
        return cli_fail(database_exit(err), "%s", errmsg);
    }
    if (cli->json) {
        json_t *document = json_pack("{s:i, s:s, s:s, s:I}", "schema", 1, "from", path, "file", to,
                                     "bytes", (json_int_t)bytes);
        body_print(document);
        json_decref(document);
        return CLI_OK;
    }
    words_put(to, stdout);
    printf(": %s from ", words_bytes((double)bytes, size));
    words_put(path, stdout);
    putchar('\n');
    return CLI_OK;
}

const struct command cmd_backup = {
    .name = "backup",
    .synopsis = "FILE",
    .summary = "A copy of the database while the daemon goes on",
    .examples = "seismo backup seismo-$(date +%F).db\n"
                "seismo backup --force /backup/seismo.db && seismo check /backup/seismo.db\n"
                "seismo backup --database /var/lib/seismo copy.db",
    .details =
        "The copy is of one moment, everything acknowledged until then is in it, and it appears "
        "under its\nname only when it is whole, checked and synced. Reads the daemon's file, so be "
        "its user or root.\nTo restore it: stop the daemon, put the copy in place of seismo.db, "
        "remove seismo.db-wal and\nseismo.db-shm, start the daemon.",
    .options = options,
    .min_words = 1,
    .max_words = 1,
    .run = run,
};
