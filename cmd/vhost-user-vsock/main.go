// Command vhost-user-vsock gives a virtual machine a virtio-vsock device over
// the vhost-user protocol and joins the guest's connections to AF_UNIX sockets.
package main

import (
	"fmt"
	"io"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/activated"
	"github.com/vhost-user-vsock/vhost-user-vsock/config"
	"github.com/vhost-user-vsock/vhost-user-vsock/daemon"
)

// Exit codes.
const (
	exitOK    = 0
	exitError = 1 // something failed at run time
	exitUsage = 2 // the command line or the file is wrong; nothing was created
)

// capabilities is the answer to --print-capabilities, in the terms of QEMU's
// docs/interop/vhost-user.json.
const capabilities = `{"type":"vsock"}`

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// run is the whole program; it returns the exit code.
func run(args []string, stdout, stderr io.Writer) int {
	// A reader of stderr, or a host program, that went away is an EPIPE to
	// handle where it happens, not the end of every guest's device.
	signal.Ignore(unix.SIGPIPE)

	line, err := config.ParseArgs(args)
	if err != nil {
		return usage(stderr, err)
	}
	switch line.Request {
	case config.ShowHelp:
		return show(stdout, config.HelpText())
	case config.ShowVersion:
		return show(stdout, versionText())
	case config.ShowCapabilities:
		return show(stdout, capabilities+"\n")
	}
	cfg, err := line.Load(activated.Take())
	if err != nil {
		return usage(stderr, err)
	}
	if daemon.Run(daemon.Program{Version: versionName(), Stderr: stderr}, line, cfg) != nil {
		return exitError
	}
	return exitOK
}

// usage tells what is wrong with the command line or the file it names.
func usage(stderr io.Writer, err error) int {
	fmt.Fprintf(stderr, "%s: %v\nTry '%s --help'.\n", config.Program, err, config.Program)
	return exitUsage
}

// show prints text that was asked for.
func show(stdout io.Writer, text string) int {
	if _, err := io.WriteString(stdout, text); err != nil {
		return exitError
	}
	return exitOK
}
