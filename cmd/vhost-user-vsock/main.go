// Command vhost-user-vsock gives a virtual machine a virtio-vsock device over
// the vhost-user protocol and joins the guest's connections to AF_UNIX sockets.
package main

import (
	"fmt"
	"io"
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"
)

// Exit codes.
const (
	exitOK    = 0
	exitError = 1 // something failed at run time
	exitUsage = 2 // the command line is wrong; nothing was created
)

// capabilities is the answer to --print-capabilities, in the terms of QEMU's
// docs/interop/vhost-user.json.
const capabilities = `{"type":"vsock"}`

// logFlushLimit bounds what an unread stderr may add to the time of the exit.
const logFlushLimit = 100 * time.Millisecond

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// run is the whole program; it returns the exit code.
func run(args []string, stdout, stderr io.Writer) int {
	// A reader of stderr, or a host program, that went away is an EPIPE to
	// handle where it happens, not the end of every guest's device.
	signal.Ignore(unix.SIGPIPE)

	request, cfg, err := parseArgs(args)
	if err != nil {
		fmt.Fprintf(stderr, "%s: %v\nTry '%s --help'.\n", program, err, program)
		return exitUsage
	}
	switch request {
	case showHelp:
		return show(stdout, helpText())
	case showVersion:
		return show(stdout, versionText())
	case showCapabilities:
		return show(stdout, capabilities+"\n")
	}

	log := newLogging(stderr, cfg.logLevel, cfg.logFormat)
	defer log.flush(logFlushLimit)
	if err := serve(cfg, log); err != nil {
		log.WithError(err).Error("stopped by an error")
		return exitError
	}
	return exitOK
}

// show prints text that was asked for.
func show(stdout io.Writer, text string) int {
	if _, err := io.WriteString(stdout, text); err != nil {
		return exitError
	}
	return exitOK
}
