package config

import (
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"os/user"
	"strconv"
	"strings"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/vhost-user-vsock/vhost-user-vsock/muxer"
	"github.com/vhost-user-vsock/vhost-user-vsock/sandbox"
)

// The parsers of option values. Their errors say what is wrong and what to
// give; the caller puts the flag and the value in front.

// parseBool reads the value of a flag that may stand alone.
func parseBool(s string) (bool, error) {
	on, err := strconv.ParseBool(s)
	if err != nil {
		return false, errors.New("not a switch; give true, false or no value")
	}
	return on, nil
}

// parseCount reads a number of connections.
func parseCount(s string) (int, error) {
	n, err := strconv.ParseInt(s, 10, 32)
	if err != nil || n < 1 {
		return 0, errors.New("not a count; give a number from 1 to 2147483647")
	}
	return int(n), nil
}

// parsePoll reads a number of microseconds. A wake-up costs less than the longest.
func parsePoll(s string) (time.Duration, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n > 1000 {
		return 0, errors.New("not a number of microseconds; give one from 0 to 1000")
	}
	return time.Duration(n) * time.Microsecond, nil
}

// maxWait is more than a guest takes to boot; beyond it a host program is better off
// connecting again.
const maxWait = time.Hour

// parseWait reads how long a host program waits for the guest.
func parseWait(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 || d > maxWait {
		return 0, errors.New("not a time to wait; give 0, or a number with ms, s or m behind it, up to 1h")
	}
	return d, nil
}

// minBuffered is the window that one connection is offered: with less, not
// even a single stalled host program could be served.
const minBuffered = 256 << 10

// sizeUnits are what a number of bytes may end in.
var sizeUnits = []struct {
	suffix string
	shift  uint
}{
	{"KiB", 10}, {"MiB", 20}, {"GiB", 30}, {"", 0},
}

// parseBuffered reads the cap on buffered bytes.
func parseBuffered(s string) (int64, error) {
	for _, unit := range sizeUnits {
		digits, ok := strings.CutSuffix(s, unit.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(digits, 10, 63)
		switch {
		case err != nil:
			return 0, errors.New("not a size; give a number of bytes, or one with KiB, MiB or GiB behind it")
		case n > math.MaxInt64>>unit.shift:
			return 0, errors.New("more than any machine has; give less")
		case n<<unit.shift < minBuffered:
			return 0, errors.New("less than the window of one connection; give 256KiB or more")
		}
		return int64(n << unit.shift), nil
	}
	panic("unreachable: every text ends in the empty suffix")
}

// parseFD reads the number of an inherited descriptor; 1 and 2 belong to the
// program's own output.
func parseFD(s string) (int, error) {
	fd, err := strconv.ParseUint(s, 10, 31)
	if err != nil || fd == 1 || fd == 2 {
		return 0, errors.New("not an inherited descriptor; give 0, 3 or a higher number")
	}
	return int(fd), nil
}

// parseMode reads the permissions of a socket file.
func parseMode(s string) (os.FileMode, error) {
	mode, err := strconv.ParseUint(s, 8, 32)
	if err != nil || mode > 0o777 {
		return 0, errors.New("not a file mode; give an octal number up to 0777, such as 0660")
	}
	return os.FileMode(mode), nil
}

// parseOwner reads USER[:GROUP]. A name wins over a number, as in chown(1);
// the group is unchanged when it is not given.
func parseOwner(s string) (uid, gid int, err error) {
	userName, groupName, hasGroup := strings.Cut(s, ":")
	if uid, err = lookUpID(userName, "user", lookUpUser); err != nil {
		return 0, 0, err
	}
	if !hasGroup {
		return uid, Unchanged, nil
	}
	if gid, err = lookUpID(groupName, "group", lookUpGroup); err != nil {
		return 0, 0, err
	}
	return uid, gid, nil
}

// lookUpID returns the number of a user or group.
func lookUpID(name, kind string, lookUp func(string) (string, error)) (int, error) {
	digits, err := lookUp(name)
	if err != nil {
		digits = name
	}
	id, err := strconv.ParseUint(digits, 10, 32)
	if err != nil || id == math.MaxUint32 { // chown takes that one for "unchanged"
		return 0, fmt.Errorf("no such %s as %q; give USER or USER:GROUP by name or number", kind, name)
	}
	return int(id), nil
}

func lookUpUser(name string) (string, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return "", err
	}
	return u.Uid, nil
}

func lookUpGroup(name string) (string, error) {
	g, err := user.LookupGroup(name)
	if err != nil {
		return "", err
	}
	return g.Gid, nil
}

// parseMetricsAddr checks the form only: a host name is resolved, and a port
// found taken, when the listener is made.
func parseMetricsAddr(s string) (string, error) {
	_, port, err := net.SplitHostPort(s)
	if err != nil {
		return "", errors.New("not an address; give HOST:PORT, such as 127.0.0.1:9101 or [::1]:9101")
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return "", fmt.Errorf("port %q is not a number from 0 to 65535; give HOST:PORT, such as 127.0.0.1:9101", port)
	}
	return s, nil
}

// logLevels are the levels that the program uses, by their names here.
var logLevels = map[string]logrus.Level{
	"error": logrus.ErrorLevel, "warn": logrus.WarnLevel, "info": logrus.InfoLevel, "debug": logrus.DebugLevel,
}

// ParseLogLevel reads the name of a level.
func ParseLogLevel(s string) (logrus.Level, error) {
	level, ok := logLevels[s]
	if !ok {
		return 0, errors.New("not a level; give error, warn, info or debug")
	}
	return level, nil
}

// LogLevelName returns the name of a level.
func LogLevelName(level logrus.Level) string {
	for name, l := range logLevels {
		if l == level {
			return name
		}
	}
	return level.String()
}

// LogFormat is how log lines look.
type LogFormat string

const (
	LogText LogFormat = "text"
	LogJSON LogFormat = "json"
)

// parseLogFormat reads the name of a format.
func parseLogFormat(s string) (LogFormat, error) {
	switch f := LogFormat(s); f {
	case LogText, LogJSON:
		return f, nil
	}
	return "", errors.New("not a format; give text or json")
}

// parseOKPort reads which port the answer to a CONNECT line names.
func parseOKPort(s string) (muxer.OKPort, error) {
	switch s {
	case "short":
		return muxer.OKShort, nil
	case "host":
		return muxer.OKHost, nil
	case "guest":
		return muxer.OKGuest, nil
	}
	return 0, errors.New("not a choice; give short, host or guest")
}

// parseSandbox reads how much of the sandbox there must be.
func parseSandbox(s string) (sandbox.Mode, error) {
	switch s {
	case "on":
		return sandbox.On, nil
	case "off":
		return sandbox.Off, nil
	case "require":
		return sandbox.Require, nil
	}
	return 0, errors.New("not a choice; give on, off or require")
}

// maxName is the length of the longest name of a VM.
const maxName = 64

// parseName reads the name of a VM: what is a label of a metric, a field of the
// log, and can stand in a path.
func parseName(s string) (string, error) {
	ok := s != "" && len(s) <= maxName && s[0] != '.'
	for _, c := range []byte(s) {
		ok = ok && (c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("._-", c) >= 0)
	}
	if !ok {
		return "", fmt.Errorf("not a name; give at most %d letters, digits, dots, dashes and underscores, not with a dot first", maxName)
	}
	return s, nil
}
