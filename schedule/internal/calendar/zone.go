package calendar

import (
	"strings"
	"time"
	_ "time/tzdata" // for systems without zones

	"rpc.do"
)

// allowedZones is what an error says.
const allowedZones = "allowed are IANA names such as Europe/Berlin and America/New_York, and UTC; " +
	"a fixed offset is Etc/GMT-2, which is two hours ahead of UTC"

// cutZone takes the zone off the front of a spec. The zone of the options has to be
// the same, if there are both.
func cutZone(text, option string) (rest, zone string, _ *rpc.Error) {
	word, rest, _ := strings.Cut(text, " ")
	name, ok := strings.CutPrefix(word, "CRON_TZ=")
	if !ok {
		name, ok = strings.CutPrefix(word, "TZ=")
	}
	switch {
	case !ok:
		return text, option, nil
	case name == "":
		return "", "", rpc.InvalidArgument.Errorf("no zone follows %s; %s", word, allowedZones)
	case option != "" && option != name:
		return "", "", rpc.InvalidArgument.Errorf("it names two zones, %.40q and %.40q: leave one out", name, option)
	}
	return rest, name, nil
}

// loadZone returns the zone of a name, UTC for none. Names that mean something else
// on another machine, or nothing, are refused even if there is such a file here.
func loadZone(name string) (*time.Location, *rpc.Error) {
	if name == "" {
		return time.UTC, nil
	}
	near, load := "", isZone(name)
	if !load {
		sure := false
		near, sure = nearZone(name)
		load = !sure && portable(name) // a zone of a later release
	}
	if load {
		if zone, err := time.LoadLocation(name); err == nil {
			return zone, nil
		}
	}
	if near != "" {
		near = ", did you mean " + near + "?"
	}
	return nil, rpc.InvalidArgument.Errorf("zone %.40q is unknown%s; %s", name, near, allowedZones)
}

func isZone(name string) bool {
	for zone := range strings.FieldsSeq(zoneNames) {
		if zone == name {
			return true
		}
	}
	return false
}

func portable(name string) bool {
	switch name {
	case "Local", "localtime", "posixrules", "Factory":
		return false
	}
	return !strings.HasPrefix(name, "posix/") && !strings.HasPrefix(name, "right/")
}

// nearZone returns the zone that a name which is none may have meant: the same but
// for case and spaces, which is sure, the same place without its region, or one
// with a few other letters.
func nearZone(name string) (near string, sure bool) {
	const longest = 40 // letters of a name that is looked for
	if len(name) > longest {
		return "", false
	}
	want := strings.ReplaceAll(strings.ToLower(name), " ", "_")
	least := len(want)/4 + 1
	for zone := range strings.FieldsSeq(zoneNames) {
		have := strings.ToLower(zone)
		distance := 1 + edits(want, have)
		if have == want {
			distance = 0
		} else if strings.HasSuffix(have, "/"+want) {
			distance = 1
		}
		if distance < least {
			near, least = zone, distance
		}
	}
	return near, near != "" && least == 0
}

// edits returns how many letters have to be changed, added or taken away to make
// one text of another.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, diagonal+1, row[j]+1)
		}
	}
	return row[len(b)]
}
