package server

import (
	"encoding/json"
	"math/big"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"rpc.do"
)

type schemaItem struct {
	SKU   string   `json:"sku"`
	Qty   int      `json:"qty,omitempty" jsonschema:"how many"`
	Price *float64 `json:"price"`
	Tags  []string `json:"tags,omitempty"`
	_     string
	Skip  chan int `json:"-"`
}

type (
	schemaNode struct {
		Value int           `json:"value"`
		Next  []*schemaNode `json:"next"`
	}
	schemaTree struct {
		Root schemaNode `json:"root"`
		Name string     `json:"name"`
	}
	schemaPointer *schemaPointer
	schemaSlice   []schemaSlice
	schemaMap     map[string]schemaMap
	schemaSelf    struct {
		*schemaSelf     //lint:ignore U1000 looked at by reflection
		A           int `json:"a"`
	}
	schemaQuoted struct {
		N int `json:"n,string"`
	}
	schemaNamedEmbed struct {
		schemaItem `json:"item"`
	}
	schemaEmbed struct {
		schemaItem
		More bool `json:"more"`
	}
	schemaBadTag struct {
		A int `json:"a" jsonschema:"type=integer"`
	}
	schemaAsText  struct{}
	schemaEmpty   struct{}
	schemaGrown0  struct{ A, B, C, D schemaGrown1 }
	schemaGrown1  struct{ A, B, C, D schemaGrown2 }
	schemaGrown2  struct{ A, B, C, D schemaGrown3 }
	schemaGrown3  struct{ A, B, C, D schemaGrown4 }
	schemaGrown4  struct{ A, B, C, D schemaGrown5 }
	schemaGrown5  struct{ A, B, C, D schemaItem }
	schemaCustom  struct{ A int }
	schemaEmbeds2 struct {
		time.Time
		A int
	}
)

func (schemaAsText) MarshalText() ([]byte, error) { return nil, nil }
func (*schemaCustom) UnmarshalJSON([]byte) error  { return nil }
func (schemaCustom) MarshalJSON() ([]byte, error) { return nil, nil }

func TestSchemaDescribesWhatJSONHolds(t *testing.T) {
	t.Parallel()
	item := `{"type":"object","properties":{"sku":{"type":"string"},"qty":{"type":"integer","description":"how many"},` +
		`"price":{"type":["null","number"]},"tags":{"type":["null","array"],"items":{"type":"string"}}},"required":["sku","price"]}`
	for _, tt := range []struct {
		of   reflect.Type
		want string
	}{
		{reflect.TypeFor[schemaItem](), item},
		{reflect.TypeFor[rpc.None](), `{"type":"null"}`},
		{reflect.TypeFor[string](), `{"type":"string"}`},
		{reflect.TypeFor[float64](), `{"type":"number"}`},
		{reflect.TypeFor[any](), `{}`},
		{reflect.TypeFor[[]byte](), `{"type":["null","string"],"contentEncoding":"base64"}`},
		{reflect.TypeFor[json.RawMessage](), `{}`},
		{reflect.TypeFor[json.Number](), `{"type":"number"}`},
		{reflect.TypeFor[time.Time](), `{"type":"string","format":"date-time"}`},
		{reflect.TypeFor[*time.Time](), `{"type":["null","string"],"format":"date-time"}`},
		{reflect.TypeFor[time.Duration](), `{"type":"integer"}`},
		{reflect.TypeFor[netip.Addr](), `{"type":"string"}`},
		{reflect.TypeFor[big.Int](), `{}`},
		{reflect.TypeFor[map[string]int](), `{"type":"object","additionalProperties":{"type":"integer"}}`},
		{reflect.TypeFor[map[int]bool](), `{"type":["null","object"]}`},
		{reflect.TypeFor[schemaAsText](), `{"type":"string"}`},
		{reflect.TypeFor[schemaCustom](), `{}`},
		{reflect.TypeFor[*schemaCustom](), `{}`},
		{reflect.TypeFor[map[string]*schemaCustom](), `{"type":"object","additionalProperties":true}`},
		{reflect.TypeFor[struct{ C *schemaCustom }](), `{"type":"object","properties":{"C":true},"required":["C"]}`},
		{reflect.TypeFor[schemaEmpty](), `{"type":"object"}`},
		{reflect.TypeFor[[]schemaQuoted](), `{"type":["null","array"],"items":true}`},
		{reflect.TypeFor[schemaTree](), `{"type":"object","properties":{"root":true,"name":{"type":"string"}},"required":["root","name"]}`},
		{reflect.TypeFor[schemaEmbed](), item[:len(item)-len(`},"required":["sku","price"]}`)] +
			`,"more":{"type":"boolean"}},"required":["sku","price","more"]}`},
	} {
		got := schemaText(schemaOf(tt.of))
		if !sameJSON(t, got, tt.want) {
			t.Errorf("schema of %s:\n got %s\nwant %s", tt.of, got, tt.want)
		}
	}
}

func TestSchemaAllowsAnythingWhereTheTypeDoesNotTell(t *testing.T) {
	t.Parallel()
	for _, of := range []reflect.Type{
		reflect.TypeFor[func()](), reflect.TypeFor[chan int](), reflect.TypeFor[complex128](),
		reflect.TypeFor[struct{ F func() }](), reflect.TypeFor[map[bool]int](), reflect.TypeFor[[]chan int](),
		reflect.TypeFor[schemaNode](), reflect.TypeFor[schemaPointer](), reflect.TypeFor[schemaSlice](),
		reflect.TypeFor[*schemaSelf](), reflect.TypeFor[struct{ P schemaPointer }](),
		reflect.TypeFor[schemaQuoted](), reflect.TypeFor[schemaNamedEmbed](), reflect.TypeFor[schemaBadTag](),
		reflect.TypeFor[schemaGrown0](), reflect.TypeFor[schemaEmbeds2](), reflect.TypeFor[error](),
	} {
		if got := schemaText(schemaOf(of)); got != anything {
			t.Errorf("schema of %s is %.200s, want %s", of, got, anything)
		}
	}
	// A map of itself is a map all the same.
	if got := schemaText(schemaOf(reflect.TypeFor[schemaMap]())); !json.Valid([]byte(got)) {
		t.Errorf("schema of a recursive map is %s", got)
	}
}

func sameJSON(t *testing.T, a, b string) bool {
	t.Helper()
	var x, y any
	if err := json.Unmarshal([]byte(a), &x); err != nil {
		t.Fatalf("%v: %s", err, a)
	}
	if err := json.Unmarshal([]byte(b), &y); err != nil {
		t.Fatalf("%v: %s", err, b)
	}
	return reflect.DeepEqual(x, y)
}
