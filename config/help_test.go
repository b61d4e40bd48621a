package config

import (
	"strings"
	"testing"
)

func TestHelpFitsTheScreen(t *testing.T) {
	for i, line := range strings.Split(HelpText(), "\n") {
		if len(line) > helpWidth {
			t.Errorf("line %d has %d columns: %s", i+1, len(line), line)
		}
		if strings.TrimRight(line, " ") != line {
			t.Errorf("line %d ends in spaces: %q", i+1, line)
		}
	}
}

func TestHelpShowsEveryFlag(t *testing.T) {
	text := HelpText()
	for _, g := range groups {
		for _, o := range g.options {
			arg := strings.TrimRight(" "+o.arg, " ")
			if !strings.Contains(text, "\n  --"+o.name+arg) {
				t.Errorf("--%s is missing", o.name)
			}
			if o.alias != "" && !strings.Contains(text, ", --"+o.alias+arg) {
				t.Errorf("--%s is missing", o.alias)
			}
		}
	}
	for _, s := range several {
		if !strings.Contains(text, "\n  --"+s.name+" "+s.arg+"\n") {
			t.Errorf("--%s is missing", s.name)
		}
	}
	for _, s := range switches {
		if !strings.Contains(text, "\n  --"+s.name+"\n") {
			t.Errorf("--%s is missing", s.name)
		}
	}
}

func TestHelpEntries(t *testing.T) {
	text := HelpText()
	for _, want := range []string{
		`
  --socket PATH, --socket-path PATH
      Listen here for the frontend. A stale socket file is replaced, a live one
      or any other file never. It is not needed where the service manager passes
      the socket on.
`, `
  --guest-cid CID|FILE
      The guest's context identifier, 3 to 4294967294, or the absolute path of a
      file that holds it. SIGHUP has the file read again. Default: 3.
`, `
  --version
      Print the version and exit.
`, `
    vhost-user-vsock --socket /run/vsock.sock --uds-path /tmp/vm.vsock \
        --guest-cid 3 --metrics-addr 127.0.0.1:9101
`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("missing:%s", want)
		}
	}
}
