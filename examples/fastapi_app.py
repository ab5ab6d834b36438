"""An HTTP front for a model: `uvicorn examples.fastapi_app:app`. A full queue is the client's to wait for: 429."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, HTTPException

from producer import AsyncProducer, InvalidInput, QueueFull, ResultTimeout


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with AsyncProducer() as app.state.pool:
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/infer/{model}")
async def infer(model: str, inputs: dict[str, list[float]]) -> dict[str, list[float]]:
    try:
        result = await app.state.pool.infer(model, inputs, timeout=10)
    except QueueFull as full:
        raise HTTPException(429, str(full), {"Retry-After": f"{full.retry_after_s:.0f}"}) from None
    except (InvalidInput, ResultTimeout) as error:
        raise HTTPException(422 if isinstance(error, InvalidInput) else 504, str(error)) from None
    return {name: array.tolist() for name, array in result.outputs.items()}
