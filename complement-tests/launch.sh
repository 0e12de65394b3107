#!/bin/sh
# Starts one resuni for Complement: writes its settings from what the deployer passes in the
# environment (see procdeploy/procdeploy.go), and becomes the server.
set -eu

bridges=
for file in "$HS_APPSERVICE_DIR"/*.yaml; do
    [ -e "$file" ] && bridges="$bridges\"$file\", "
done
# JSON with text values is an inline table but for its colons.
destinations=$(sed 's/":"/" = "/g' "$HS_DESTINATIONS")

cat >"$HS_DIR/resuni.toml" <<END
server_name = "$SERVER_NAME"
public_baseurl = "http://$HS_CS_ADDR"
data_dir = "data"

[[listeners]]
address = "${HS_CS_ADDR%:*}"
port = ${HS_CS_ADDR##*:}

[[listeners]]
address = "${HS_FED_ADDR%:*}"
port = ${HS_FED_ADDR##*:}
tls_certificate = "$HS_TLS_CERT"
tls_private_key = "$HS_TLS_KEY"

[registration]
enabled = true
guests = true
shared_secret = "complement"

[password_hashing]
cost = "minimum"

[rate_limits]
enabled = false

[rooms]
default_version = "11"
relationships = true

[federation]
extra_ca_files = ["$HS_CA"]
destinations = $destinations

[outbound]
deny_ip_ranges = []

[url_previews]
enabled = true

[server_notices]
enabled = true

[appservices]
config_files = [$bridges]

[log]
level = "${RESUNI_COMPLEMENT_LOG:-info}"
END

exec "$RESUNI_BINARY" serve --config "$HS_DIR/resuni.toml" --exit-on-stdin-eof
