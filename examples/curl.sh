#!/bin/sh
# Every way to ask, with curl: curl.sh URL IMAGE. Where the service wants a key, add
# -H "Authorization: Bearer KEY" to each.
set -eu
url=$1 image=$2
ask() { curl --fail-with-body --silent --show-error "$@"; echo; }

echo "# What is served, and what vouches for it"
ask "$url/v1/model"

echo "# Embeddings and scores: a form of one image or several, or the image itself"
ask -F "images=@$image" -F "images=@$image" "$url/v1/embed?encoding=base64"
ask --data-binary "@$image" -H "Content-Type: image/jpeg" "$url/v1/embed"

echo "# Scores alone"
ask -F "images=@$image" "$url/v1/score"

echo "# The embeddings as a NumPy file: float32 [images, width]"
ask -F "images=@$image" -H "Accept: application/x-npy" -o embeddings.npy "$url/v1/embed"

echo "# As OpenAI's clients ask"
printf '{"input": "data:image/jpeg;base64,%s"}' "$(base64 < "$image" | tr -d '\n')" |
    ask --data-binary @- -H "Content-Type: application/json" "$url/v1/embeddings"
