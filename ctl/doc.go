// Package ctl is the control interface's client for people: the commands behind
// "vhost-user-vsock ctl", their tables and the live view.
//
// There is one table of commands. Help, the manual and the completions come from it.
package ctl
