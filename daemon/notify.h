/* What the service manager is told (sd_notify(3)): one datagram to $NOTIFY_SOCKET a message. */
#ifndef SEISMO_DAEMON_NOTIFY_H
#define SEISMO_DAEMON_NOTIFY_H

#include <stdint.h>

/* Sends `state` ("READY=1", "STATUS=…", lines separated by \n). Does nothing when no service
 * manager asked to be told, and does not wait; what cannot be sent is lost. */
void notify_send(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* ms between two "WATCHDOG=1", half of what the service manager waits for; 0: it does not wait. */
uint64_t notify_watchdog_interval(void);

#endif
