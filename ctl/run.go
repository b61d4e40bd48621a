package ctl

import (
	"errors"
	"fmt"
	"io"
	"io/fs"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/control"
)

// Exit codes.
const (
	exitOK    = 0
	exitError = 1 // the daemon refused, or is not there
	exitUsage = 2
)

// Run does what the arguments behind "ctl" ask for and returns the exit code.
func Run(args []string, stdout, stderr io.Writer) int {
	l, err := parse(args)
	switch {
	case err != nil:
		return usage(stderr, err)
	case l.help && l.command == nil:
		return done(stderr, show(stdout, HelpText()))
	case l.help:
		return done(stderr, show(stdout, l.command.helpText()))
	}
	err = l.command.run(&call{commandLine: l, client: control.NewClient(l.control), stdout: stdout})
	if bad, ok := errors.AsType[usageError](err); ok {
		return usage(stderr, bad)
	}
	return done(stderr, explain(err, l.control))
}

// usageError is about an argument that a command cannot take apart.
type usageError struct{ error }

// usage tells what is wrong with the command line.
func usage(stderr io.Writer, err error) int {
	fmt.Fprintf(stderr, "%s: %s\nTry '%s --help'.\n", Program, plain(err.Error()), Program)
	return exitUsage
}

// done tells what went wrong, if anything did.
func done(stderr io.Writer, err error) int {
	if err == nil {
		return exitOK
	}
	fmt.Fprintf(stderr, "%s: %s\n", Program, plain(err.Error()))
	return exitError
}

// explain says what can be done about a daemon that is out of reach.
func explain(err error, path string) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ECONNREFUSED):
		return fmt.Errorf("nobody listens at %s: is the daemon running with --%s %[1]s?", path, controlFlag.Name)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s: permission denied; be the daemon's user, or root", path)
	}
	return err
}

// show prints text.
func show(stdout io.Writer, text string) error {
	_, err := io.WriteString(stdout, text)
	return err
}
