package main

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/vhost-user-vsock/vhost-user-vsock/config"
	"github.com/vhost-user-vsock/vhost-user-vsock/ctl"
)

func TestRunHelpVersionCapabilitiesNeedNothingElse(t *testing.T) {
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"--print-capabilities"}, `{"type":"vsock"}` + "\n"},
		{[]string{"--no-such-flag", "--guest-cid", "2", "stray", "--print-capabilities"}, `{"type":"vsock"}` + "\n"},
		{[]string{"--version"}, versionText()},
		{[]string{"--version", "--guest-cid", "2"}, versionText()},
		{[]string{"--help"}, config.HelpText()},
		{[]string{"-h"}, config.HelpText()},
		{[]string{"ctl", "--help"}, ctl.HelpText()},
	} {
		t.Run(fmt.Sprint(tt.args), func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			if code := run(tt.args, &stdout, &stderr); code != exitOK {
				t.Errorf("exit code %d", code)
			}
			if stdout.String() != tt.want || stderr.Len() > 0 {
				t.Errorf("stdout %q, stderr %q", stdout.String(), stderr.String())
			}
		})
	}
}

func TestRunTellsWhatIsWrong(t *testing.T) {
	inTempDir(t)
	for _, args := range [][]string{
		{"--no-such-flag"},
		{"--socket", "s", "--uds-path", "u", "--guest-cid", "2"},
	} {
		var stdout, stderr bytes.Buffer
		if code := run(args, &stdout, &stderr); code != exitUsage {
			t.Errorf("%q: exit code %d", args, code)
		}
		if text := stderr.String(); !strings.Contains(text, args[len(args)-1]) || stdout.Len() > 0 {
			t.Errorf("%q: stdout %q, stderr %q", args, stdout.String(), text)
		}
		expectFiles(t)
	}
}
