package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/sirupsen/logrus"

	"github.com/vhost-user-vsock/vhost-user-vsock/muxer"
)

// config is a command line that was found good. Making one has no side effect.
type config struct {
	frontend     frontend
	socket       string // path of socketFile; of listeningFD too, where it has one
	socketAccess access // of socketFile
	fd           int    // of listeningFD and connectedFD, else noFD
	guestCID     cidSource
	packed       bool // offer packed rings
	inBand       bool // offer notifications by messages

	udsPath   string
	udsAccess access
	okPort    muxer.OKPort

	maxConnections int
	maxBuffered    int64

	logLevel    logrus.Level
	logFormat   logFormat
	metricsAddr string // empty: no metrics
}

// frontend is how a VM's frontends come.
type frontend int

const (
	socketFile  frontend = iota // they connect to a socket that we make
	listeningFD                 // they connect to one that we inherited
	connectedFD                 // there is just one, and we inherited its connection
)

// access says who may connect to a socket file.
type access struct {
	mode     os.FileMode
	uid, gid int // unchanged: as the kernel sets it
}

const (
	noFD      = -1
	unchanged = -1
)

// parseArgs returns what the command line asks for and, to serve guests, the
// checked configuration.
func parseArgs(args []string) (request, config, error) {
	asked, given, err := scan(args)
	if err != nil || asked != serveGuests {
		return asked, config{}, err
	}
	c := config{
		fd:           noFD,
		socketAccess: access{uid: unchanged, gid: unchanged},
		udsAccess:    access{uid: unchanged, gid: unchanged},
	}
	for _, g := range groups {
		for _, o := range g.options {
			if err := o.apply(&c, given); err != nil {
				return asked, config{}, err
			}
		}
	}
	return asked, c, c.checkTogether(given)
}

// apply puts the option's value, or its default, into c.
func (o *option) apply(c *config, given map[string]string) error {
	value, ok := given[o.name]
	if !ok {
		if value = o.def; value == "" {
			return nil
		}
	}
	if err := o.set(c, value); err != nil {
		return fmt.Errorf("--%s %q: %w", o.name, value, err)
	}
	return nil
}

// checkTogether checks what no option can check alone.
func (c *config) checkTogether(given map[string]string) error {
	switch {
	case c.udsPath == "":
		return errors.New("--uds-path: missing; give the path where host programs connect")
	case c.socket == "" && c.fd == noFD:
		return errors.New("--socket: missing; give the path where the frontend connects, or --fd")
	case c.fd == noFD:
		return c.checkConflict("--socket", c.socket)
	}
	for _, name := range []string{"socket", "socket-mode", "socket-owner"} {
		if value, ok := given[name]; ok {
			return fmt.Errorf("--%s %q: excludes --fd, which makes no socket file; drop one of them", name, value)
		}
	}
	return c.checkInherited()
}

// fields are what a log should tell about the configuration.
func (c *config) fields() logrus.Fields {
	fields := logrus.Fields{"guest_cid": c.guestCID.cid, "uds_path": c.udsPath}
	if c.socket != "" {
		fields["socket"] = c.socket
	}
	if c.fd != noFD {
		fields["fd"] = c.fd
	}
	return fields
}
