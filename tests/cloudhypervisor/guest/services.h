/*
 * What the guest serves, by port.
 */
#ifndef SERVICES_H
#define SERVICES_H

#include "vsock.h"

/* service_at returns who serves a port, or NULL. */
service *service_at(uint32_t port);

#endif
