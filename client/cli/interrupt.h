/* ^C and the like end a long command in good order: the run is closed, the terminal restored. */
#ifndef SEISMO_CLIENT_CLI_INTERRUPT_H
#define SEISMO_CLIENT_CLI_INTERRUPT_H

#include <stdbool.h>

/* From now on SIGINT, SIGTERM and SIGHUP only set a flag; sleeping and polling end early. */
void interrupt_catch(void);
bool interrupt_seen(void);

/* Sleeps, unless interrupted. */
void interrupt_sleep(double seconds);

#endif
