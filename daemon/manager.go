package daemon

import (
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

// managerLimit is how long a service manager that does not listen holds up what it
// is told.
const managerLimit = time.Second

// manager is the service manager that is told how the program is (sd_notify(3)). Its
// methods belong to one goroutine.
//
// The library's SdNotify connects anew for each message. In the sandbox it could not
// to an abstract address, and with a manager that is stuck it has no limit of time.
type manager struct {
	log      logrus.FieldLogger
	conn     *net.UnixConn // nil: nobody wants to know
	watchdog time.Duration // the program counts as stuck that is silent for so long; 0: never
	deaf     bool          // it did not take the last message
}

// findManager finds who started the program, by the environment, and takes what tells
// of it out of that.
func findManager(log logrus.FieldLogger) *manager {
	m := &manager{log: log}
	path := os.Getenv("NOTIFY_SOCKET")
	os.Unsetenv("NOTIFY_SOCKET")
	watchdog, err := sd.SdWatchdogEnabled(true)
	if err != nil {
		log.WithError(err).Warn("the service manager gets no watchdog messages")
	}
	if path == "" {
		return m
	}
	m.watchdog = watchdog
	if m.conn, err = net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"}); err != nil {
		log.WithError(err).Warn("the service manager cannot be told anything")
	}
	return m
}

// tell sends a message of these lines.
func (m *manager) tell(lines ...string) {
	if m.conn == nil {
		return
	}
	err := m.conn.SetWriteDeadline(time.Now().Add(managerLimit))
	if err == nil {
		_, err = m.conn.Write([]byte(strings.Join(lines, "\n")))
	}
	if err != nil && !m.deaf {
		m.log.WithError(err).Warn("the service manager does not take messages")
	}
	m.deaf = err != nil
}

// ready tells that the program serves, and how.
func (m *manager) ready(status string) { m.tell(sd.SdNotifyReady, "STATUS="+status) }

// status tells how the program serves.
func (m *manager) status(text string) { m.tell("STATUS=" + text) }

// reloading tells that the configuration is read again, until ready tells that it was.
func (m *manager) reloading() {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		m.log.WithError(err).Warn("the service manager is not told of the reload")
		return
	}
	m.tell(sd.SdNotifyReloading, fmt.Sprintf("MONOTONIC_USEC=%d", now.Nano()/1000), "STATUS=reading the configuration")
}

// stopping tells that the program ends.
func (m *manager) stopping() { m.tell(sd.SdNotifyStopping, "STATUS=stopping") }

// pings returns a ticker's channel, nil where no pings are wanted, and what stops it.
// At each tick the manager wants to be pinged.
func (m *manager) pings() (ticks <-chan time.Time, stop func()) {
	if m.conn == nil || m.watchdog == 0 {
		return nil, func() {}
	}
	t := time.NewTicker(m.watchdog / 2)
	return t.C, t.Stop
}

// ping tells that the program is not stuck.
func (m *manager) ping() { m.tell(sd.SdNotifyWatchdog) }

// close leaves the manager.
func (m *manager) close() error {
	if m.conn == nil {
		return nil
	}
	return m.conn.Close()
}
