// Package activated takes the listening sockets that a service manager made for
// the program and passed on to it (sd_listen_fds(3)).
//
// The files of such sockets are the manager's: nothing here removes or changes
// them.
package activated
